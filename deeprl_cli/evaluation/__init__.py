"""Playing a trained policy: returns over fresh episodes, videos, transcripts.

Curves of training are read in `reports/`.
"""
