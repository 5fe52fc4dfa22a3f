"""Many runs from one command (`deeprl train -m`): checked, run here or side by side, recorded, and shown as a table.

How one run trains is in `training/`.
"""
