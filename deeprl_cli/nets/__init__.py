"""Ordinary single-agent modules (`modules.py`), chosen for a space (`build.py`), and the seed axis (`stacked.py`).

Heads that turn their outputs into distributions or values of actions live in `rl/`.
"""
