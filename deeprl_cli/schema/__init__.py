"""The values of a run: their typed shape, how plain mappings become it, and what older files meant.

Composing them from files and the command line is the matter of `config/`.
"""
