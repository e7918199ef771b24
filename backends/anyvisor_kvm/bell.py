"""A wait that a signal ends.

Some facts about why. A vCPU that halts waits outside of KVM if its interrupt controllers are there, and `run` has to
come back from that wait when a signal arrives, as it does from KVM_RUN. Python's own waits (locks, poll, sleep) do not:
they go on once the signal's handler has run (PEP 475). So this is libc's semaphore. It can be rung by a signal handler
on top of the wait, too, and has no descriptor to give back.
"""

from __future__ import annotations

import ctypes

_libc = ctypes.CDLL(None)
SEMAPHORE_BYTES = 32
"""A sem_t of glibc and of musl, on machines of 64 bits."""


class Bell:
    """Rung by any thread, waited for by one. It does not count: two rings before a wait are one."""

    def __init__(self) -> None:
        self._semaphore = (ctypes.c_uint64 * (SEMAPHORE_BYTES // 8))()
        _libc.sem_init(self._semaphore, 0, 0)

    def ring(self) -> None:
        """End the wait, or the next one if nobody waits."""
        _libc.sem_post(self._semaphore)

    def wait(self) -> bool:
        """Wait until it rings; False when a signal has come instead."""
        if _libc.sem_wait(self._semaphore) < 0:
            return False
        while not _libc.sem_trywait(self._semaphore):
            pass
        return True
