"""A wait that any thread can end.

Some facts about signal handlers. One may run on top of any Python code of the main thread, and may ask a vCPU there to
come back. With `threading.Event` it would wait for ever for a lock that the code below it holds. A plain lock is taken
and given in one step each, so it serves as a bell: to wait is to take it, to ring is to give it.
"""

from __future__ import annotations

import contextlib
import threading


class Bell:
    """Rung from any thread or signal handler, waited for by one thread. Two rings before a wait are one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """End the wait, or the next one if nobody waits."""
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self._lock.release()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it rings; False when `seconds` are over before."""
        return self._lock.acquire(timeout=-1 if seconds is None else seconds)
