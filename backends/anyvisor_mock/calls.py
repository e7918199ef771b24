"""Every call that was made, as values, in the order in which they began.

mock.calls.of("put Sregs")           # what was put, and what came of it
mock.calls.on("vm 0 / vcpu 1")       # all that was done with one vCPU
mock.calls.kinds                     # "create_vm", "map_memory", "put Irqchip", ...
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import attrs


class _Underway:
    def __repr__(self) -> str:
        return "..."


UNDERWAY = _Underway()
"""The result of a call that has not returned yet."""


@attrs.frozen(repr=False)
class Call:
    """One call: `vm 0 / vcpu 1` was asked to `put` something, and returned a `result` or raised an `error`.

    What is alive is named instead of kept: a vCPU by what it is called here, RAM by its region, a source of interrupts
    by its class. Left out is the bus.
    """

    subject: str
    method: str
    arguments: tuple[Any, ...] = ()
    result: Any = UNDERWAY
    error: BaseException | None = None

    @property
    def kind(self) -> str:
        """The method, and the type of state that it is about: `run`, `put Sregs`."""
        if self.method in ("get", "put") and self.arguments:
            (what, *_) = self.arguments
            return f"{self.method} {(what if isinstance(what, type) else type(what)).__name__}"
        return self.method

    def is_a(self, kind: str) -> bool:
        """Whether it is of that kind (`put Sregs`) or of that method (`put`)."""
        return kind in (self.kind, self.method)

    def __repr__(self) -> str:
        arguments = ", ".join(each.__name__ if isinstance(each, type) else repr(each) for each in self.arguments)
        came = f"raised {type(self.error).__name__}: {self.error}" if self.error else f"-> {self.result!r}"
        return f"<{self.subject}: {self.method}({arguments}) {came}>"


class Calls(Sequence[Call]):
    """Calls, oldest first. Grows while the hypervisor is used, from any thread; what `of` and `on` give does not."""

    def __init__(self, calls: Iterable[Call] = ()):
        self._calls = list(calls)
        self._lock = threading.Lock()

    def begin(self, call: Call) -> int:
        """A call begins; its number is its place."""
        with self._lock:
            self._calls.append(call)
            return len(self._calls) - 1

    def end(self, number: int, *, result: Any = None, error: BaseException | None = None) -> None:
        """A call is over."""
        with self._lock:
            self._calls[number] = attrs.evolve(self._calls[number], result=result, error=error)

    def of(self, *kinds: str) -> Calls:
        """Those of some kinds: `put Sregs`, or all of `put`."""
        return Calls(each for each in self if any(each.is_a(kind) for kind in kinds))

    def on(self, subject: str) -> Calls:
        """Those on one object: `hypervisor`, `vm 0`, `vm 0 / vcpu 1`."""
        return Calls(each for each in self if each.subject == subject)

    @property
    def kinds(self) -> list[str]:
        """What was called, a word or two each."""
        return [each.kind for each in self]

    @property
    def failed(self) -> Calls:
        """Those that raised."""
        return Calls(each for each in self if each.error is not None)

    @overload
    def __getitem__(self, place: int) -> Call: ...
    @overload
    def __getitem__(self, place: slice) -> list[Call]: ...
    def __getitem__(self, place: int | slice) -> Call | list[Call]:
        with self._lock:
            return self._calls[place]

    def __iter__(self) -> Iterator[Call]:
        return iter(self[:])

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no calls"
