"""Environments: from an id to N of them behind one interface: seeded, exactly replayed, and checked before a run.

No torch here: environments also live in processes of their own. What a policy sees is `spec.py`.
"""
