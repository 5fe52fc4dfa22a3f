"""From a checked configuration to a finished run: preflight, parts, loops, and messages when it fails.

What an algorithm computes is in `algos/`, what is on the disk in `runs/`.
"""
