"""Experience: the replay memory (off-policy) and the rollout buffer (on-policy)."""
