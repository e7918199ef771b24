"""A recording of what a VMM asked of a hypervisor, what it was told, and what the guest did, as a value.

`anyvisor.recording.recorder` makes traces from any hypervisor; the mock backend replays them.

Some facts about order. A trace is one list of events, and its order is what happened when, over all vCPUs and threads:
an event's place in the list is its number. A call is noted when it has returned (a kick or an interrupt when it is
made), an access when the device has answered. What the device did meanwhile, looking at the clock or raising a line,
stands before the access. While a recording is made, the accesses of several vCPUs and the calls of timers take turns,
so the order of the trace is the order in which the devices saw them.

Not in a trace: the contents of guest RAM, and what reaches a device from elsewhere, as what is typed at a console does.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import attrs

from anyvisor.acts import Act, MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.exits import Exit
from anyvisor.facts import HostFacts
from anyvisor.memory import Region
from anyvisor.recording.failure import Failure
from anyvisor.states import State

Argument = State | Region | str | int | None
"""What a call was given: states and regions whole, a state type by its portable name, flags and numbers."""
HYPERVISOR = 0
"""The subject number of the hypervisor itself."""


@attrs.frozen
class InterruptTaken(Act):
    """The vCPU took an interrupt from its source: `vector` is what the INTA cycle gave, None if it raised."""

    vector: int | None


Access = PortIn | PortOut | MmioRead | MmioWrite
Done = Access | InterruptTaken
"""The acts of a recorded guest. The value of a read is what the device answered, None if it raised."""


@attrs.frozen
class Event:
    """Something that happened to `subject`: the hypervisor (0), a VM or a vCPU, numbered as they were made."""

    subject: int


@attrs.frozen
class Call(Event):
    """A method that was called, other than a `run` that ran: its arguments in order, its result or its failure.

    The result of a `create_vm` or `create_vcpu` is the number of the new subject. Of an eventfd only the rest of the
    call is kept: a descriptor means nothing to another process.
    """

    operation: str
    arguments: tuple[Argument, ...] = ()
    result: State | int | None = None
    failure: Failure | None = None


@attrs.frozen
class RunBegan(Event):
    """`Vcpu.run` was called."""


@attrs.frozen
class Acted(Event):
    """The guest did something in `run`, and a device answered."""

    act: Done


@attrs.frozen
class DeviceRaised(Event):
    """What was called for the act before this raised an exception."""

    failure: Failure


@attrs.frozen
class RunEnded(Event):
    """`Vcpu.run` returned `exit`, or raised `failure`."""

    exit: Exit | None = None
    failure: Failure | None = None


@attrs.frozen
class ClockRead(Event):
    """Somebody looked at a VM's clock: at `now` (nanoseconds) or at `wall` (seconds since 1970)."""

    face: Literal["now", "wall"]
    value: float


@attrs.frozen
class TimerCalled(Event):
    """A VM's clock called a timer: that which was made as the clock's `timer`th, from 0."""

    timer: int


@attrs.frozen
class Run:
    """One `run` of a vCPU: the guest's acts in order, their numbers in the trace, and how it ended.

    One that was not over when the recording ended has neither exit nor failure.
    """

    acts: tuple[Done, ...]
    numbers: tuple[int, ...]
    exit: Exit | None = None
    failure: Failure | None = None


@attrs.frozen
class Trace:
    """A recording: the facts of the hypervisor, and what happened, in order (see the module's facts)."""

    facts: HostFacts = attrs.field(repr=lambda facts: f"<{facts.backend}>")
    events: tuple[Event, ...] = attrs.field(default=(), repr=lambda events: f"<{len(events)} events>")

    @functools.cached_property
    def vms(self) -> dict[int, int]:
        """The subject numbers of the VMs, each with its number among them, from 0."""
        made = (event for event in self.events if isinstance(event, Call) and event.operation == "create_vm")
        numbers = [event.result for event in made if isinstance(event.result, int)]
        return {number: index for index, number in enumerate(numbers)}

    @functools.cached_property
    def vcpus(self) -> dict[int, tuple[int, int]]:
        """The subject numbers of the vCPUs, each with its VM's subject number and its index there."""
        made = (event for event in self.events if isinstance(event, Call) and event.operation == "create_vcpu")
        return {event.result: (event.subject, _index(event)) for event in made if isinstance(event.result, int)}

    def name(self, subject: int) -> str:
        """What to call a subject: `hypervisor`, `VM 0`, `vCPU 1`, with its VM where there are several."""
        vms, vcpus = self.vms, self.vcpus
        if subject in vcpus:
            vm, index = vcpus[subject]
            return f"vCPU {index}" if len(vms) == 1 else f"vCPU {index} of VM {vms[vm]}"
        return f"VM {vms[subject]}" if subject in vms else "hypervisor"

    def of(self, subject: int) -> tuple[Event, ...]:
        """What happened to one subject, in order."""
        return tuple(event for event in self.events if event.subject == subject)

    def calls(self, subject: int) -> tuple[Call, ...]:
        """The calls of one subject, in order; runs are not among them."""
        return tuple(event for event in self.of(subject) if isinstance(event, Call))

    def runs(self, vcpu: int) -> tuple[Run, ...]:
        """The runs of the vCPU of that subject number, in order."""
        runs: list[Run] = []
        acts: list[tuple[int, Done]] = []
        for number, event in enumerate(self.events):
            if event.subject != vcpu:
                continue
            if isinstance(event, RunBegan):
                acts = []
                runs.append(Run((), ()))
            elif isinstance(event, Acted):
                acts.append((number, event.act))
            elif isinstance(event, RunEnded):
                runs[-1] = _run(acts, event)
                acts = []
        if acts:
            runs[-1] = _run(acts, RunEnded(vcpu))
        return tuple(runs)

    def to_json(self) -> str:
        """The trace as text: a line of JSON for the facts, and one for each event."""
        from anyvisor.recording.format import encode, header  # noqa: PLC0415 - the format needs the classes above

        return "".join([header(self.facts), *map(encode, self.events)])

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """A trace from `to_json`, or from what a recorder wrote so far; PlanError, naming the line, for anything else.

        A last line without its end is left out: whoever wrote it was interrupted.
        """
        return cls._read(io.StringIO(text, newline="\n"))

    def save(self, path: os.PathLike[str] | str) -> None:
        """Write the trace to a file."""
        Path(path).write_text(self.to_json(), "utf-8")

    @classmethod
    def load(cls, path: os.PathLike[str] | str) -> Trace:
        """The trace in a file; PlanError when it is none, OSError when it cannot be read."""
        with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return cls._read(file)

    @classmethod
    def _read(cls, lines: Iterable[str]) -> Trace:
        from anyvisor.recording.format import read  # noqa: PLC0415 - the format needs the classes above

        facts, events = read(lines)
        return cls(facts, events)


def _index(event: Call) -> int:
    index: Any = event.arguments[0]
    return int(index)


def _run(acts: list[tuple[int, Done]], end: RunEnded) -> Run:
    numbers = tuple(number for number, _ in acts)
    return Run(tuple(act for _, act in acts), numbers, end.exit, end.failure)
