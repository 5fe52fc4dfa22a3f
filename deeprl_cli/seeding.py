"""One run seed to many independent generator seeds."""

from __future__ import annotations


def mix(seed: int, purpose: str) -> int:
    """A 63-bit generator seed from a run's seed and a word (FNV-1a: stable across machines and Python versions)."""
    value = 0xCBF29CE484222325
    for byte in f"{seed}/{purpose}".encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value >> 1
