"""Mathematics that algorithms share: pure functions on `(S, B)` tensors, and a few modules with state.

Nothing here knows a loop, an environment or an algorithm.
"""
