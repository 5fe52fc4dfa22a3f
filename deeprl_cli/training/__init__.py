"""From a checked configuration to a finished run: the preflight, the parts, the loops, and the messages when it fails.

What an algorithm computes lives in `algos/`, what is on the disk in `runs/`.
"""
