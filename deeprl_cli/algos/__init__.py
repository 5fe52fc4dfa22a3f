"""One file for each algorithm. None of them imports another; `registry.py` finds them by name.

What several of them share lives in `families.py` (whole lines of an algorithm) and `rl/` (formulas).
"""
