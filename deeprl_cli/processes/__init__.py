"""This process and its siblings: cores, threads, device, compiling, signals, ranks and what they say to one another.

Starting the ranks of a run lives in `training/launch.py`, jobs of a sweep in `sweeps/`.
"""
