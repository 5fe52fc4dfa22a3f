"""Experience: the replay memory (off-policy), the rollout buffer (on-policy), and how much memory they take.

Playing episodes belongs to `training/`, environments to `envs/`.
"""
