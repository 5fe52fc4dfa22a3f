"""Many runs from one command (`deeprl train -m`): checked, run here or side by side, kept on record, put in a table.

How one run trains is the matter of `training/`.
"""
