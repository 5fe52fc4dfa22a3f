"""Ordinary single-agent modules (`modules.py`), chosen for a space (`build.py`), and the seed axis (`stacked.py`)."""
