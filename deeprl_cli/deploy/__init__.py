"""A trained policy out of the house: acting in the environment's own terms, exported to a file, played from one.

`play.py` and `exported.py` know no torch.
"""
