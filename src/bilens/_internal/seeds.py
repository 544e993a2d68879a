"""Seeds of the parts of a stream or a run, from one seed."""

from __future__ import annotations

import hashlib

_GOLDEN = 0x9E3779B1
"""2³² over the golden ratio: multiples of it lie far apart, so that the parts of seeds 0, 1, 2 … do not meet."""


def derived(seed: int, part: int) -> int:
    """The seed of one part of what a seed makes, for example of its n-th batch: 0 … 2⁶³ − 1."""
    return (seed * _GOLDEN + part) % 2**63


def named(seed: int, purpose: str, number: int) -> int:
    """The seed of one use of a run's seed, for example of the noise of its n-th step: 0 … 2³² − 1."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {purpose} {number}".encode(), digest_size=4).digest(), "big")
