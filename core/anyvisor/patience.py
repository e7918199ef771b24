"""Time limits, as a caller gives them and as `threading` takes them."""

from __future__ import annotations

import threading


def limit(timeout: float | None) -> float | None:
    """`timeout` seconds, or None for no limit, as `threading` takes it; ValueError below 0 and for no number."""
    if timeout is None:
        return None
    if not timeout >= 0:
        raise ValueError(f"timeout: {timeout} is not a number of seconds from 0 up")
    return min(timeout, threading.TIMEOUT_MAX)
