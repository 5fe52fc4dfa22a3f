"""The mathematics that algorithms share: pure functions on `(S, B)` tensors, and a few modules with state."""
