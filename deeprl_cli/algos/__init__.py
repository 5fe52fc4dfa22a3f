"""One algorithm a page, each a file of the textbook that knows none of the others; `registry.py` finds them by name.

What several of them share lives in `families.py` (whole lines of an algorithm) and `rl/` (formulas).
"""
