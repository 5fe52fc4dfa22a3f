"""What a run leaves on the disk, and getting it back: folder, configuration, logs, checkpoints, weights and hashes.

Opening a run executes nothing. What is written when, `training/` decides.
"""
