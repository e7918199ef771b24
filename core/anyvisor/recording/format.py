"""How a trace is written: JSON lines, one for the facts and one for each event.

Some facts about the format. A boot of Linux makes a million accesses, so an access is a short line, and its number in
the trace is that of its line:

    {"anyvisor_trace": 1, "facts": {...}}
    [0, "create_vm", [false], 1]                  subject, operation, arguments, result
    [1, "create_vcpu", [0, null], 2]              the results 1 and 2 are the numbers of new subjects
    [2, "put", [{"type": "x86_64.Regs", ...}]]
    [2, "get", ["x86_64.Msrs"], null, {...}]      a fifth item is what was raised
    [2, "began"]
    [2, "out", 1016, 1, 65]                       in, out: port, size in bytes, value
    [2, "read", 3490709504, 4, 0]                 read, write: guest-physical address, size in bytes, value
    [2, "took", 32]                               an interrupt, by its vector
    [2, "raised", {...}]                          what the device of the line before raised
    [2, "ended", "Halted", {}]                    the exit and its fields; or null, and what was raised
    [1, "now", 2047]                              a look at the clock; also "wall"
    [1, "timer", 0]                               the clock called a timer

Whoever records adds line by line, so what a process that was killed has written is a trace, too.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from anyvisor import exits
from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.bus import ALL_ONES
from anyvisor.codec import class_named, from_data, to_data
from anyvisor.errors import PlanError
from anyvisor.exits import Exit, UnknownExit
from anyvisor.facts import HostFacts
from anyvisor.memory import Region
from anyvisor.recording.failure import Failure
from anyvisor.recording.subjects import Subjects
from anyvisor.recording.trace import (
    Acted,
    Call,
    ClockRead,
    DeviceRaised,
    Event,
    InterruptTaken,
    RunBegan,
    RunEnded,
    TimerCalled,
)
from anyvisor.states import State, VcpuState, VmState

VERSION = 1
VERSION_KEY = "anyvisor_trace"
ACCESSES: dict[str, type[PortIn | PortOut | MmioRead | MmioWrite]] = {
    "in": PortIn,
    "out": PortOut,
    "read": MmioRead,
    "write": MmioWrite,
}
ACCESS_WORDS: dict[type, str] = {kind: word for word, kind in ACCESSES.items()}
SIZES = (1, 2, 4, 8)
EXITS: dict[str, type[Exit]] = {
    name: kind for name, kind in vars(exits).items() if isinstance(kind, type) and issubclass(kind, Exit)
}
NOTHING: tuple[Any, ...] = ()
CALLS: dict[str, dict[str, tuple[Any, ...]]] = {
    "hypervisor": {"create_vm": (bool,), "close": NOTHING},
    "vm": {
        "map_memory": (Region, bool),
        "get": (str,),
        "put": (VmState,),
        "create_vcpu": (int, int | None),
        "set_irq": (int, bool),
        "add_irqfd": (int, bool),
        "remove_irqfd": (int,),
        "add_ioeventfd": (Region, bool, int | None),
        "remove_ioeventfd": (Region, bool, int | None),
        "coalesce": (Region, bool),
        "close": NOTHING,
    },
    "vcpu": {
        "get": (str,),
        "put": (VcpuState,),
        "run": NOTHING,
        "take_interrupts_from": NOTHING,
        "notify_interrupt": NOTHING,
        "kick": NOTHING,
        "close": NOTHING,
    },
}
"""The calls of each kind of subject, and the types of their arguments."""

# -- writing -----------------------------------------------------------------------------------------------------------


def header(facts: HostFacts) -> str:
    """The first line of a trace."""
    return _line({VERSION_KEY: VERSION, "facts": to_data(facts)})


def encode(event: Event) -> str:
    """The line of an event."""
    return _line([event.subject, *_items(event)])


def _items(event: Event) -> list[Any]:  # noqa: PLR0911 - one a kind of event
    match event:
        case Acted(_, InterruptTaken(vector)):
            return ["took", vector]
        case Acted(_, act):
            return [ACCESS_WORDS[type(act)], *attrs.astuple(act)]
        case Call():
            return _call_items(event)
        case RunBegan():
            return ["began"]
        case RunEnded():
            return ["ended", *_exit_items(event)]
        case DeviceRaised():
            return ["raised", to_data(event.failure)]
        case TimerCalled():
            return ["timer", event.timer]
        case ClockRead():
            return [event.face, event.value]
    raise PlanError(f"{event!r} has no place in a trace")


def _call_items(call: Call) -> list[Any]:
    items = [call.operation, to_data(list(call.arguments)), to_data(call.result), to_data(call.failure)]
    while items[-1] is None:
        items.pop()
    return items


def _exit_items(event: RunEnded) -> list[Any]:
    """The exit of a stranger's class, which nobody else may know, becomes an `UnknownExit` of its name."""
    if event.failure is not None:
        return [None, to_data(event.failure)]
    found = event.exit
    if type(found) not in EXITS.values():
        found = UnknownExit(-1, type(found).__name__)
    return [type(found).__name__, to_data(found)]


def _line(data: Any) -> str:
    return json.dumps(data, separators=(",", ":")) + "\n"


# -- reading -----------------------------------------------------------------------------------------------------------


def read(lines: Iterable[str]) -> tuple[HostFacts, tuple[Event, ...]]:
    """Facts and events; PlanError naming the line. A last line without its end is left out."""
    rest = enumerate(lines, start=1)
    _, first = next(rest, (1, ""))
    facts = _read_header(first)
    known: dict[str, Event] = {}
    subjects = Subjects()
    events: list[Event] = []
    for number, line in rest:
        if not line.endswith("\n"):
            break
        try:
            if (event := known.get(line)) is None:
                event = known[line] = _event(_json(line), subjects)
            subjects.check(event)
        except (PlanError, TypeError, ValueError) as error:
            raise PlanError(f"line {number} of the trace, {reprlib.repr(line)}: {error}") from error
        events.append(event)
    return facts, tuple(events)


def _read_header(line: str) -> HostFacts:
    try:
        data = _json(line)
    except PlanError as error:
        raise PlanError(f"this is no trace of anyvisor: its first line is {error}") from error
    if not isinstance(data, dict) or data.keys() != {VERSION_KEY, "facts"}:
        raise PlanError(f"this is no trace of anyvisor: it does not begin with {VERSION_KEY!r} and 'facts'")
    if data[VERSION_KEY] != VERSION:
        found = reprlib.repr(data[VERSION_KEY])
        raise PlanError(f"the trace is of version {found}, this anyvisor reads version {VERSION}; record it anew")
    return from_data(data["facts"], HostFacts, "the trace's facts")


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"not JSON: {error}") from error


def _event(data: Any, subjects: Subjects) -> Event:
    if not isinstance(data, list) or len(data) < 2 or type(data[0]) is not int or not isinstance(data[1], str):
        raise PlanError("an event is a list of a subject's number, a word, and more")
    subject, word, *rest = data
    reader = _READERS.get(word)
    return reader(subject, word, rest) if reader else _call(subject, word, rest, subjects)


def _access(subject: int, word: str, rest: list[Any]) -> Event:
    address, size_bytes, value = _whole(rest, 3)
    highest = 0xFFFF if word in ("in", "out") else (1 << 64) - 1
    if size_bytes not in SIZES or address is None or not 0 <= address <= highest:
        raise PlanError(f"there is no access of {size_bytes} bytes at {address}")
    if value is None and word in ("out", "write"):
        raise PlanError("what the guest wrote is missing")
    if value is not None and not 0 <= value <= ALL_ONES[size_bytes]:
        raise PlanError(f"{value} does not fit in {size_bytes} bytes")
    return Acted(subject, ACCESSES[word](address, size_bytes, value))


def _took(subject: int, _: str, rest: list[Any]) -> Event:
    return Acted(subject, InterruptTaken(_whole(rest, 1)[0]))


def _began(subject: int, _: str, rest: list[Any]) -> Event:
    _whole(rest, 0)
    return RunBegan(subject)


def _raised(subject: int, _: str, rest: list[Any]) -> Event:
    (failure,) = _items_of(rest, 1)
    return DeviceRaised(subject, from_data(failure, Failure, "what was raised"))


def _ended(subject: int, _: str, rest: list[Any]) -> Event:
    name, data = _items_of(rest, 2)
    if name is None:
        return RunEnded(subject, None, from_data(data, Failure, "what was raised"))
    if not isinstance(name, str) or name not in EXITS:
        raise PlanError(f"there is no exit {reprlib.repr(name)}")
    return RunEnded(subject, from_data(data, EXITS[name], name))


def _clock(subject: int, word: str, rest: list[Any]) -> Event:
    (value,) = _items_of(rest, 1)
    if type(value) is not int and not (word == "wall" and type(value) is float):
        raise PlanError(f"{reprlib.repr(value)} is no time")
    return ClockRead(subject, "wall" if word == "wall" else "now", value)


def _timer(subject: int, _: str, rest: list[Any]) -> Event:
    (timer,) = _whole(rest, 1)
    if timer is None or timer < 0:
        raise PlanError("the timer's number is missing")
    return TimerCalled(subject, timer)


def _call(subject: int, operation: str, rest: list[Any], subjects: Subjects) -> Event:
    kinds = CALLS[subjects.kind(subject)].get(operation)
    if kinds is None:
        raise PlanError(f"{reprlib.repr(operation)} does not happen to a {subjects.kind(subject)}")
    if not 0 < len(rest) <= 3:
        raise PlanError("a call has arguments, a result, and what was raised")
    given, result, failure = [*rest, None, None][:3]
    arguments = tuple(
        from_data(data, kind, f"an argument of {operation}")
        for data, kind in zip(_items_of(given, len(kinds)), kinds, strict=True)
    )
    failed = None if failure is None else from_data(failure, Failure, "what was raised")
    return Call(subject, operation, arguments, _result(operation, arguments, result, failed), failed)


def _result(operation: str, arguments: tuple[Any, ...], data: Any, failed: Failure | None) -> State | int | None:
    """A `get` gives a state of the kind that was asked for, a `create` the number of a subject, all else nothing."""
    kind: Any = {"get": State, "create_vm": int, "create_vcpu": int}.get(operation)
    wanted = class_named(arguments[0]) if kind is State else kind
    if (data is not None) != (kind is not None and failed is None):
        raise PlanError(f"{operation} has a result, or has failed, or neither is wanted: {reprlib.repr(data)}")
    found: State | int | None = None if data is None else from_data(data, wanted, f"the result of {operation}")
    return found


def _whole(items: list[Any], count: int) -> list[int | None]:
    """So many whole numbers or nulls."""
    for item in _items_of(items, count):
        if item is not None and type(item) is not int:
            raise PlanError(f"{reprlib.repr(item)} is not a whole number")
    return items


def _items_of(items: Any, count: int) -> list[Any]:
    if not isinstance(items, list) or len(items) != count:
        raise PlanError(f"{reprlib.repr(items)} are not {count} items")
    return items


_READERS: dict[str, Callable[[int, str, list[Any]], Event]] = {
    **dict.fromkeys(ACCESSES, _access),
    "took": _took,
    "began": _began,
    "raised": _raised,
    "ended": _ended,
    "timer": _timer,
    **dict.fromkeys(("now", "wall"), _clock),
}
