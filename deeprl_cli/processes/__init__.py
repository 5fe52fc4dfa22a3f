"""This process and its siblings: cores, threads, device, compiling, signals, ranks and their communication.

Starting the ranks of a run lives in `training/launch.py`, jobs of a sweep in `sweeps/`.
"""
