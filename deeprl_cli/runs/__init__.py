"""What a run writes to disk, and reading it back: folder, configuration, logs, checkpoints, weights and hashes.

Opening a run executes nothing. What is written when, `training/` decides.
"""
