"""The loops: `rollout.py` (on-policy), `replay.py` (off-policy), and what they share (`base.py`)."""
