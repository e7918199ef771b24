"""The flight recorder: the last exits of a vCPU, kept where they cost next to nothing.

Some facts about cost. This is written on every port and MMIO exit, so what is noted is one tuple (`Entry`), and noting
it is one call of C code, `collections.deque.append`: 50 ns. A list that is written in place, with an index that goes
round, costs as much, since Python makes objects of its numbers, too; and its index is one more thing to keep right when
a device raises. What was noted is made into values only when somebody looks, which any thread may do at any time.

A write is noted before its device is called, a read when it was answered; one whose device raised has the value None.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from anyvisor.exits import Exit
from anyvisor.states import VcpuState

IN, OUT, READ, WRITE = "in", "out", "read", "write"
"""The kinds of accesses: to a port, and to MMIO."""
EXIT = "exit"
"""The kind of an exit that `Vcpu.run` returned: its value is the `Exit`, the rest of its entry is 0."""
CAPACITY = 256
"""How many exits are kept."""

Entry = tuple[str, int, int, Any, int]
"""The kind, the address, the size in bytes, the value, and RIP: at the instruction or behind it, 0 where a backend does
not know it for nothing."""


@attrs.frozen
class NotedExit:
    """An exit of the past. `kind` is `in`, `out`, `read` or `write` (MMIO), or `exit` for one that ended `Vcpu.run`.

    `value` is None for a read that no device answered because it failed. `rip` is where the guest was, at the
    instruction or behind it, None where that was not known.
    """

    kind: str
    address: int = 0
    size_bytes: int = 0
    value: int | None = 0
    rip: int | None = None
    exit: Exit | None = None

    @classmethod
    def of(cls, entry: Entry) -> NotedExit:
        """What a ring has noted."""
        kind, address, size_bytes, value, rip = entry
        if kind == EXIT:
            return cls(kind, exit=value, rip=rip or None)
        return cls(kind, address, size_bytes, value, rip or None)

    @property
    def place(self) -> tuple[str, int]:
        """What was accessed, as `Bus.unclaimed` has it: `port` or `mmio`, and the address."""
        return "port" if self.kind in (IN, OUT) else "mmio", self.address

    @property
    def is_read(self) -> bool:
        """Whether the guest asked a device, and did not tell it."""
        return self.kind in (IN, READ)

    def to_data(self) -> dict[str, Any]:
        """The exit for JSON, in the words of `anyvisor.exit_trace`."""
        rip = {} if self.rip is None else {"rip": self.rip}
        if self.exit is not None:
            return {"kind": self.kind, "exit": type(self.exit).__name__, "words": self.exit.describe(), **rip}
        space = "port" if self.kind in (IN, OUT) else "address"
        return {"kind": self.kind, space: self.address, "size": self.size_bytes, "value": self.value, **rip}

    def __str__(self) -> str:
        where = "" if self.rip is None else f"  at rip {self.rip:#x}"
        if self.exit is not None:
            return f"exit: {self.exit.describe()}{where}"
        arrow = "<-" if self.kind in (OUT, WRITE) else "->"
        space = "port" if self.kind in (IN, OUT) else "MMIO"
        value = "no answer" if self.value is None else f"{self.value:#0{2 + 2 * self.size_bytes}x}"
        return f"{self.kind:<5} {space} {self.address:#x} {arrow} {value}{where}"


class ExitRing:
    """The last `capacity` exits of one vCPU, which its thread adds with `append`; any thread may look.

    `before` holds the vCPU's states as they were at the exit before its last, where the hypervisor destroys them at a
    death: its backend fills it in.
    """

    append: Callable[[Entry], None]

    def __init__(self, capacity: int = CAPACITY):
        self.capacity = capacity
        self.before: dict[type[VcpuState], VcpuState] = {}
        self._entries: deque[Entry] = deque(maxlen=capacity)
        self.append = self._entries.append

    def ended_run(self, exit_: Exit) -> None:
        """Add an exit that `Vcpu.run` returned."""
        self.append((EXIT, 0, 0, exit_, 0))

    @property
    def count(self) -> int:
        """How many exits it holds: all there have been, up to its capacity."""
        return len(self._entries)

    @property
    def newest(self) -> Entry | None:
        """The entry of the last exit. While it is the same (`is`), there has been none."""
        return self._entries[-1] if self._entries else None

    def since(self, entry: Entry | None) -> int:
        """How many of the exits it holds came after one that was its newest; all, where that one is gone."""
        entries = reversed(self._entries.copy())
        return next((later for later, each in enumerate(entries) if each is entry), self.count)

    def last(self, count: int | None = None) -> tuple[NotedExit, ...]:
        """The last exits, the oldest first; as many as there are, or at most `count`."""
        entries = list(self._entries.copy())  # another thread may be adding to them
        wanted = len(entries) if count is None else min(count, len(entries))
        return tuple(map(NotedExit.of, entries[len(entries) - wanted :]))
