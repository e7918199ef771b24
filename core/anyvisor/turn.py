"""Whose turn it is at a VM or a vCPU, for backends that keep its state in Python.

A vCPU that is in `run` must not be read, written, run again or closed by another thread, and is kicked out of there by
any. A `Turn` is one thread's at a time, and nobody's after it is closed.

>>> turn = Turn("vCPU 0")
>>> with turn.taken("run"):
...     turn.check("put Regs")
Traceback (most recent call last):
anyvisor.errors.HypervisorError: put Regs (vCPU 0 is running; kick it and wait): EBUSY, Device or resource busy
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anyvisor.errors import HypervisorError
from anyvisor.exits import Exit, Kicked


class Turn:
    """The turn at one object, `subject` in messages. Thread-safe."""

    def __init__(self, subject: str):
        self._subject = subject
        self._lock = threading.Lock()
        self._is_taken = False
        self._is_kicked = False
        self.is_closed = False

    def check(self, operation: str) -> None:
        """HypervisorError when the object is closed (EBADF) or its turn taken (EBUSY)."""
        if self.is_closed:
            raise HypervisorError(operation, errno.EBADF, f"{self._subject} is closed")
        if self._is_taken:
            raise HypervisorError(operation, errno.EBUSY, f"{self._subject} is running; kick it and wait")

    @contextmanager
    def taken(self, operation: str) -> Iterator[None]:
        """Take the turn for the block; refused as by `check`."""
        with self._lock:
            self.check(operation)
            self._is_taken = True
        try:
            yield
        finally:
            self._is_taken = False

    def run(self, step: Callable[[], Exit | None]) -> Exit:
        """`Vcpu.run` of an interpreter: take the turn and call `step` until it has an exit, or there is a kick."""
        with self.taken("run"):
            while not self._is_kicked:
                if found := step():
                    return found
            self._is_kicked = False
            return Kicked()

    def kick(self) -> None:
        """`Vcpu.kick`: make `run` return after the step that it is at, or the next `run` before its first."""
        self._is_kicked = True

    def close(self) -> bool:
        """Let nobody have a turn any more: True the first time. HypervisorError (EBUSY) while it is taken."""
        with self._lock:
            if self.is_closed:
                return False
            self.check("close")
            self.is_closed = True
            return True
