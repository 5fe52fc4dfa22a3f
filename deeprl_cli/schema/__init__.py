"""The values of a run: their types, how plain mappings are turned into them, and how older files are read.

Composing them from files and the command line is the matter of `config/`.
"""
