"""What stands at the other end in a test: devices that remember, and an interrupt controller that is a queue."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable


class Listener:
    """A device that remembers each access, answers reads from `answers`, and calls `then` after each.

    `reads` are `(offset, size_bytes)`, `writes` `(offset, size_bytes, value)`. A read with no answer left gets 0.
    """

    def __init__(self, answers: Iterable[int] = (), then: Callable[[], None] = lambda: None):
        self.answers = collections.deque(answers)
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int, int]] = []
        self.then = then

    def read(self, offset: int, size_bytes: int) -> int:
        """Remember it, and answer."""
        self.reads.append((offset, size_bytes))
        self.then()
        return self.answers.popleft() if self.answers else 0

    def write(self, offset: int, size_bytes: int, value: int) -> None:
        """Remember it."""
        self.writes.append((offset, size_bytes, value))
        self.then()

    def __repr__(self) -> str:
        return "listener"

    @property
    def values(self) -> list[int]:
        """What was written."""
        return [value for _, _, value in self.writes]


class Vectors:
    """An interrupt source whose interrupts are vectors in a queue; `taken` are those that a vCPU has fetched."""

    def __init__(self, *vectors: int):
        self.waiting = collections.deque(vectors)
        self.taken: list[int] = []

    @property
    def pending(self) -> bool:
        """Whether there is one left."""
        return bool(self.waiting)

    def acknowledge(self) -> int:
        """The next vector."""
        self.taken.append(self.waiting.popleft())
        return self.taken[-1]
