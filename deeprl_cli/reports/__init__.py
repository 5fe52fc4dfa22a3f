"""What runs say when they are read back: curves, statistics with intervals, pictures.

Nothing here runs or imports anything of a run.
"""
