"""A hypervisor that answers from a trace: what a real one did once, again, with no hypervisor.

The caller does what it did when the trace was recorded (`anyvisor.recording`). Its `get` is answered as it was, its
`put` is compared with what was put, and `run` does what the guest did: it writes the recorded values to the caller's
bus, compares what the bus answers to its reads with what it answered then, takes the recorded interrupts, and ends with
the recorded exit or error. So devices see the same traffic, in the same order over all vCPUs, at the same times.

Some facts about kicks. A `Kicked` that was recorded after a kick waits for the caller's kick, at its place in the
guest's acts; that one comes earlier or later makes no difference. One that was recorded without (a signal ended that
`run`) comes by itself.

Guest RAM stays as the caller loads it: what the guest wrote there is not in a trace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from anyvisor.bus import Bus
from anyvisor.closing import Closing
from anyvisor.codec import name_of
from anyvisor.exits import Exit
from anyvisor.facts import HostFacts
from anyvisor.interrupts import InterruptSource
from anyvisor.memory import RamRegion, Region
from anyvisor.recording.trace import HYPERVISOR, Argument, Call, Event, Trace
from anyvisor.states import VcpuState, VmState
from anyvisor_mock.replay.clock import ReplayClock
from anyvisor_mock.replay.judge import Judge
from anyvisor_mock.replay.lane import Lane, Setup
from anyvisor_mock.replay.order import Order
from anyvisor_mock.replay.run import Player, Recorded, runs_of

S = TypeVar("S", bound=VcpuState)
M = TypeVar("M", bound=VmState)
PATIENCE_SECONDS = 5.0


def open_replay(trace: Trace | os.PathLike[str] | str, *, strict: bool = True) -> ReplayHypervisor:
    """A hypervisor that answers from a trace, or from the file of one; PlanError when the file holds none."""
    return ReplayHypervisor(trace if isinstance(trace, Trace) else Trace.load(Path(trace)), strict=strict)


class ReplayHypervisor(Closing):
    """Answers from `trace`; see `Hypervisor`. A context manager.

    What differs from the recording is in `divergences`, in words. A strict replay raises the first as ReplayError;
    another one goes on wherever the trace still has an answer. `patience_seconds` is how long a vCPU waits
    for another whose turn it is and that is not in `run`.
    """

    def __init__(self, trace: Trace, *, strict: bool = True, patience_seconds: float = PATIENCE_SECONDS):
        self.facts: HostFacts = trace.facts
        """Those of the hypervisor that was recorded."""
        self._judge = Judge(strict=strict)
        self._trace = trace
        self._patience_seconds = patience_seconds
        self._events = _by_vm(trace)
        self._lane = Lane("hypervisor", self._events[HYPERVISOR], self._judge, Setup((), {}, self._judge))
        self._vms: list[ReplayVm] = []

    @property
    def divergences(self) -> list[str]:
        """What differed from the recording so far."""
        return self._judge.divergences

    def check_finished(self) -> None:
        """ReplayError when something differed, or when something recorded was not asked for again."""
        if self.divergences:
            self._judge.lacks(f"{len(self.divergences)} difference(s), the first: {self.divergences[0]}")
        if rest := [text for lane in (self._lane, *_lanes(self._vms)) for text in lane.rest]:
            self._judge.lacks(f"{rest[0]} was recorded and has not come again, nor have {len(rest) - 1} more")

    def create_vm(self, *, deterministic: bool = False) -> ReplayVm:
        """The VM that was created then."""
        subject = _answer(self._lane.take("create_vm", deterministic)[1])
        vm = ReplayVm(self._trace, subject, self._events[subject], self._judge, self._patience_seconds)
        self._vms.append(vm)
        return vm

    def close(self) -> None:
        """Close every VM; may be called twice."""
        for vm in self._vms:
            vm.close()


class ReplayVm:
    """A VM of a trace, made by `ReplayHypervisor.create_vm`; see `Vm`."""

    def __init__(self, trace: Trace, subject: int, events: list[tuple[int, Event]], judge: Judge, patience: float):
        self._events = events
        self._judge = judge
        self._names = {number: trace.name(number) for number in {event.subject for _, event in events} | {subject}}
        self._setup = Setup(events, self._names, judge)
        self._order = Order(events, self._names, judge, patience)
        self._lane = Lane(self._names[subject], self._of(subject), judge, self._setup)
        self._vcpus: list[ReplayVcpu] = []
        self._lines = {event.arguments: event.failure for event in _calls(events, "set_irq")}
        self.clock = ReplayClock(events, self._order, judge)

    def _of(self, subject: int) -> list[tuple[int, Event]]:
        return [(number, event) for number, event in self._events if event.subject == subject]

    @property
    def lanes(self) -> list[Lane]:
        """What was asked of the VM and its vCPUs."""
        return [self._lane, *(vcpu.lane for vcpu in self._vcpus)]

    def _call(self, operation: str, *arguments: Argument) -> Any:
        return _answer(self._lane.take(operation, *arguments)[1])

    def map_memory(self, ram: RamRegion, *, readonly: bool = False) -> None:
        """Compared by its region."""
        self._call("map_memory", ram.region, readonly)

    def get(self, kind: type[M]) -> M:
        """The state as it was."""
        found: M = self._call("get", name_of(kind))
        return found

    def put(self, state: VmState) -> None:
        """Compared with what was put."""
        self._call("put", state)

    def create_vcpu(self, index: int, hardware_id: int | None = None) -> ReplayVcpu:
        """The vCPU that was created then."""
        subject = self._call("create_vcpu", index, hardware_id)
        name = self._names.setdefault(subject, f"vCPU {index}")
        events = self._of(subject)
        lane = Lane(name, events, self._judge, self._setup)
        player = Player(subject, name, self._order, self._judge)
        self._vcpus.append(ReplayVcpu(index, lane, runs_of(events), player))
        return self._vcpus[-1]

    def set_irq(self, gsi: int, level: bool) -> None:
        """Fails as it did. A line and level that was never set is a difference; when and how often does not count."""
        if (gsi, level) not in self._lines:
            self._judge.differs(f"{self._lane.name}: set_irq({gsi}, {level}) came, and was never recorded")
        if failure := self._lines.get((gsi, level)):
            raise failure.error()

    def add_irqfd(self, fd: int, gsi: int, resample_fd: int = -1) -> None:  # noqa: ARG002
        """Compared by its line. Nobody looks at the eventfd."""
        self._call("add_irqfd", gsi, resample_fd >= 0)

    def remove_irqfd(self, fd: int, gsi: int) -> None:  # noqa: ARG002
        """Compared by its line."""
        self._call("remove_irqfd", gsi)

    def add_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:  # noqa: ARG002
        """Compared by its addresses. Nobody signals the eventfd: what guests wrote to it is not in a trace."""
        self._call("add_ioeventfd", region, port, match)

    def remove_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:  # noqa: ARG002
        """Compared by its addresses."""
        self._call("remove_ioeventfd", region, port, match)

    def coalesce(self, region: Region, *, port: bool = False) -> None:
        """Compared; the writes come where they were delivered."""
        self._call("coalesce", region, port)

    def close(self) -> None:
        """Let nobody wait any more; may be called twice."""
        self._order.stop("the VM is closed")


class ReplayVcpu:
    """A vCPU of a trace, made by `ReplayVm.create_vcpu`; see `Vcpu`."""

    def __init__(self, index: int, lane: Lane, runs: dict[int, Recorded], player: Player):
        self.index = index
        self.lane = lane
        """What was asked of it."""
        self._runs = runs
        self._player = player

    def get(self, kind: type[S]) -> S:
        """The state as it was."""
        found: S = _answer(self.lane.take("get", name_of(kind))[1])
        return found

    def put(self, state: VcpuState) -> None:
        """Compared with what was put."""
        _answer(self.lane.take("put", state)[1])

    def run(self, bus: Bus) -> Exit:
        """Do on `bus` what the guest did, and end as that `run` ended; ReplayError when devices differ."""
        number, event = self.lane.take("run")
        if isinstance(event, Call):  # it was in run already, and was refused
            _answer(event)
        return self._player.play(self._runs[number], bus)

    def take_interrupts_from(self, source: InterruptSource) -> None:
        """From now on its INTA cycles go there."""
        _answer(self.lane.take("take_interrupts_from")[1])
        self._player.source = source

    def notify_interrupt(self) -> None:
        """Nothing: when interrupts are taken stands in the trace."""

    def kick(self) -> None:
        """Let the next recorded `Kicked` come; from any thread."""
        self._player.kick()

    def close(self) -> None:
        """There is nothing to give back."""


def _answer(event: Event) -> Any:
    """What a call gave, or what it raised."""
    assert isinstance(event, Call)
    if event.failure is not None:
        raise event.failure.error()
    return event.result


def _lanes(vms: list[ReplayVm]) -> Iterator[Lane]:
    for vm in vms:
        yield from vm.lanes


def _calls(events: list[tuple[int, Event]], operation: str) -> Iterator[Call]:
    return (event for _, event in events if isinstance(event, Call) and event.operation == operation)


def _by_vm(trace: Trace) -> dict[int, list[tuple[int, Event]]]:
    """Each VM's events and its vCPUs', and under 0 the hypervisor's, with their numbers."""
    owner = {vcpu: vm for vcpu, (vm, _) in trace.vcpus.items()}
    found: dict[int, list[tuple[int, Event]]] = {HYPERVISOR: [], **{vm: [] for vm in trace.vms}}
    for number, event in enumerate(trace.events):
        found[owner.get(event.subject, event.subject)].append((number, event))
    return found
