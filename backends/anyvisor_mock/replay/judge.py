"""What a replay says when the caller does something else than was recorded."""

from __future__ import annotations

from typing import Any, NoReturn

import attrs

from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.codec import name_of
from anyvisor.errors import ReplayError
from anyvisor.recording.trace import Argument, Call, Done, Event, InterruptTaken
from anyvisor.states import State

VERBS = {PortIn: "IN from port", PortOut: "OUT to port", MmioRead: "load from", MmioWrite: "store to"}


class Judge:
    """Collects what differs in `divergences`; a strict one raises it, too, as ReplayError."""

    def __init__(self, *, strict: bool):
        self.strict = strict
        self.divergences: list[str] = []

    def differs(self, text: str, cause: BaseException | None = None) -> None:
        """Something was not as recorded, and the replay could go on."""
        self.divergences.append(text)
        if self.strict:
            raise ReplayError(text) from cause

    def lacks(self, text: str) -> NoReturn:
        """Something was asked that the trace has no answer to."""
        self.divergences.append(text)
        raise ReplayError(text)


def words(operation: str, arguments: tuple[Argument, ...] = ()) -> str:
    """A call in words, states by their names: `put(x86_64.Regs)`."""
    shown = (name_of(type(each)) if isinstance(each, State) else str(each) for each in arguments)
    return f"{operation}({', '.join(shown)})"


def event_words(event: Event) -> str:
    """What was recorded, in words."""
    return words(event.operation, event.arguments) if isinstance(event, Call) else words("run")


def act_words(act: Done) -> str:
    """An act in words: `IN from port 0x3fd, 1 byte(s)`."""
    if isinstance(act, InterruptTaken):
        return "the interrupt that was taken"
    address = act.port if isinstance(act, PortIn | PortOut) else act.guest_address
    return f"{VERBS[type(act)]} {address:#x}, {act.size_bytes} byte(s)"


def difference(recorded: Any, came: Any, path: str = "") -> str:
    """Where two values first differ, and how: `rip is 0x2000, 0x1000 was recorded`."""
    if type(recorded) is type(came) and attrs.has(type(came)):
        pairs = [
            (each.name, getattr(recorded, each.name), getattr(came, each.name)) for each in attrs.fields(type(came))
        ]
        return next(difference(old, new, f"{path}.{name}".lstrip(".")) for name, old, new in pairs if old != new)
    if isinstance(recorded, tuple) and isinstance(came, tuple) and len(recorded) == len(came):
        pairs = [(str(index), old, new) for index, (old, new) in enumerate(zip(recorded, came, strict=True))]
        return next(difference(old, new, f"{path}[{index}]") for index, old, new in pairs if old != new)
    return f"{path or 'it'} is {_short(came)}, {_short(recorded)} was recorded"


def _short(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
