"""Gather what is known of a vCPU and its machine.

Some facts about gathering. It is done when something has gone wrong already, so nothing may go wrong here: what cannot
be read is noted with the reason, and the rest goes on. The vCPU must not run meanwhile; others may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from anyvisor.architectures import part
from anyvisor.codec import name_of
from anyvisor.console import Console
from anyvisor.diagnosis.evidence import Evidence, States
from anyvisor.errors import Unsupported
from anyvisor.exits import Exit
from anyvisor.flight import ExitRing
from anyvisor.panics import Panic, find_panic

if TYPE_CHECKING:
    from anyvisor.hypervisor import Vcpu
    from anyvisor.machine import Machine
    from anyvisor.symbols import Symbols

T = TypeVar("T")

PANIC_LINES = 400
PANIC_BYTES = 256 * PANIC_LINES
"""How far back on a console a kernel's last words are looked for."""


class Notes:
    """What could not be had, with the reason."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def attempt(self, what: str, get: Callable[[], T], otherwise: T) -> T:
        """What `get` gives, or `otherwise` and a note."""
        try:
            return get()
        except Exception as error:  # noqa: BLE001 - a diagnosis must not hide what it is of
            self.found[what] = f"{type(error).__name__}: {error}"
            return otherwise


def collect(machine: Machine, vcpu: Vcpu, exit_: Exit | None = None, symbols: Symbols | None = None) -> Evidence:
    """All that is known of a vCPU that does not run: of its death by `exit_`, or of one that is only looked at.

    `symbols` are those of the kernel's file; they are moved to where the kernel runs. Raises nothing.
    """
    notes = Notes()
    ring = next(iter(machine.flight[vcpu.index : vcpu.index + 1]), None) or ExitRing(0)
    consoles = list(machine.consoles.values())
    now = _states(machine.plan.architecture, vcpu, notes)
    return Evidence(
        plan=machine.plan,
        vcpu=vcpu.index,
        read=machine.memory.read,
        exit=exit_,
        now=now,
        before=dict(ring.before),
        last_exits=notes.attempt("last exits", ring.last, ()),
        exit_count=ring.count,
        console=notes.attempt("consoles", lambda: {each.name: _lines(each) for each in consoles}, {}),
        panic=notes.attempt("panic", lambda: next(panics(consoles), None), None),
        unclaimed=dict(machine.bus.unclaimed),
        symbols=notes.attempt("symbols", lambda: _moved(machine, symbols, {**now, **ring.before}), symbols),
        unreadable=notes.found,
    )


def _states(architecture: str, vcpu: Vcpu, notes: Notes) -> States:
    """The states that a diagnosis goes by, as far as the vCPU has them."""
    found = {}
    for kind in part(architecture, "diagnosis").STATES:
        try:
            found[kind] = vcpu.get(kind)
        except Unsupported:  # a backend that has no such state
            continue
        except Exception as error:  # noqa: BLE001 - see Notes.attempt
            notes.found[name_of(kind)] = f"{type(error).__name__}: {error}"
    return found


def _lines(console: Console) -> tuple[str, ...]:
    """The last lines of a console; none of one where nothing was printed."""
    return tuple(console.last_lines()) if console.end else ()


def panics(consoles: Iterable[Console]) -> Iterator[Panic]:
    """What the guest's kernel said when it gave up, on each console where it did."""
    for console in consoles:
        tail, _ = console.read_output(max(0, console.end - PANIC_BYTES))
        if panic := find_panic(tail.decode("utf-8", "replace").splitlines()[-PANIC_LINES:]):
            yield panic


def _moved(machine: Machine, symbols: Symbols | None, states: States) -> Symbols | None:
    """The symbols where the kernel has moved itself to."""
    if symbols is None:
        return None
    slide = part(machine.plan.architecture, "kaslr").slide(symbols, states, machine.memory.read)
    return symbols.moved(slide) if slide else symbols
