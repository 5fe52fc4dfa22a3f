"""Suites of training runs with bars: what a row is, whether it has to run, running it, the table of results.

Statistics and pictures live in `reports/`; how one run trains, in `training/`.
"""
