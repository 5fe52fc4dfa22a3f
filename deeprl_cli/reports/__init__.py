"""Reading runs back: curves, statistics with intervals, pictures.

Nothing here runs or imports anything of a run.
"""
