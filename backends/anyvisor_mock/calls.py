"""Every call that was made, as values, in the order in which they began.

mock.calls.of("put Sregs")           # what was put, and what came of it
mock.calls.on("vm 0 / vcpu 1")       # all that was done with one vCPU
mock.calls.kinds                     # "create_vm", "map_memory", "put Irqchip", ...

Some facts about locks: there is none. A kick may come from a signal handler on top of any line of this module, in the
same thread, and must not wait for what that line holds. So each step on what is shared is one that Python makes whole.
"""

from __future__ import annotations

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
    by its class. Left out is the bus. Arguments that were not given are there by their defaults.
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


@attrs.define
class Entry:
    """The place of one call among the others."""

    call: Call

    def end(self, *, result: Any = None, error: BaseException | None = None) -> None:
        """The call is over."""
        self.call = attrs.evolve(self.call, result=result, error=error)


class Calls(Sequence[Call]):
    """Calls, oldest first. Grows while the hypervisor is used, from any thread; what `of` and `on` give does not."""

    def __init__(self, calls: Iterable[Call] = ()):
        self._entries = [Entry(call) for call in calls]

    def begin(self, call: Call) -> Entry:
        """A call begins; to be told how it ends."""
        entry = Entry(call)
        self._entries.append(entry)
        return entry

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
        found = self._entries[place]
        return found.call if isinstance(found, Entry) else [each.call for each in found]

    def __iter__(self) -> Iterator[Call]:
        return iter(self[:])

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no calls"
