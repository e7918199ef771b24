"""A wait that any thread, a signal handler or a signal itself can end. For backends: what a vCPU waits at.

Some facts about why. `run` has to come back when it is kicked, and may when a signal arrives, but Python's own waits go
on once the signal's handler has run (PEP 475). So where there is libc's semaphore the wait can be that; elsewhere it is
a lock, and a signal is only noticed if its handler kicks the vCPU. A lock and not an event: a handler that rings on top
of the wait must not wait for what the code below it holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from typing import Protocol

SEMAPHORE_BYTES = 32
"""A sem_t of glibc and of musl, on machines of 64 bits."""


class Bell(Protocol):
    """Rung by any thread, waited for by one. It does not count: two rings before a wait are one."""

    def ring(self) -> None:
        """End the wait, or the next one if nobody waits."""
        ...

    def wait(self) -> bool:
        """Wait until it rings; False when a signal has come instead."""
        ...


def make_bell() -> Bell:
    """The best bell that the system has."""
    return SemaphoreBell() if sys.platform == "linux" else LockBell()


class SemaphoreBell:
    """A bell that hears signals."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._semaphore = (ctypes.c_uint64 * (SEMAPHORE_BYTES // 8))()
        self._libc.sem_init(self._semaphore, 0, 0)

    def ring(self) -> None:
        """See `Bell`."""
        self._libc.sem_post(self._semaphore)

    def wait(self) -> bool:
        """See `Bell`."""
        if self._libc.sem_wait(self._semaphore) < 0:
            return False
        while not self._libc.sem_trywait(self._semaphore):
            pass
        return True


class LockBell:
    """A bell made of a lock: to wait is to take it, to ring is to give it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """See `Bell`."""
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self._lock.release()

    def wait(self, seconds: float | None = None) -> bool:
        """See `Bell`; False also when `seconds` are over."""
        return self._lock.acquire(timeout=-1 if seconds is None else seconds)
