"""A hypervisor around a hypervisor, that notes all that is asked of it, what it answers, and what its guests do.

    with Recorder(open_hypervisor("kvm"), "boot.trace") as hypervisor:
        machine = launch(plan, hypervisor)

Everything goes through unchanged: states, errors, kicks, interrupts, eventfds, clocks. The result is a `Trace`, which
the mock backend replays without the hypervisor.

What guests write to an eventfd (`add_ioeventfd`) never comes by here, so it is not noted.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from anyvisor.bus import Bus
from anyvisor.closing import Closing
from anyvisor.codec import name_of
from anyvisor.errors import PlanError
from anyvisor.exits import Exit
from anyvisor.facts import HostFacts
from anyvisor.flight import ExitRing
from anyvisor.hypervisor import Hypervisor, Vcpu, Vm
from anyvisor.interrupts import InterruptSource
from anyvisor.memory import RamRegion, Region
from anyvisor.recording.bus import RecordingBus, RecordingClock, RecordingSource, Turn
from anyvisor.recording.failure import Failure
from anyvisor.recording.format import encode
from anyvisor.recording.log import Log
from anyvisor.recording.trace import HYPERVISOR, Argument, Call, RunBegan, RunEnded, Trace
from anyvisor.states import State, VcpuState, VmState
from anyvisor.tapped_bus import records_exits

S = TypeVar("S", bound=VcpuState)
M = TypeVar("M", bound=VmState)


class Noting:
    """One subject of the trace: calls what is to be called and notes it."""

    def __init__(self, log: Log, subject: int):
        self._log = log
        self._subject = subject

    def _call(self, operation: str, arguments: tuple[Argument, ...], call: Callable[[], Any]) -> Any:
        """What `call` gives, noted with its result if that is a state."""
        try:
            found = call()
        except BaseException as error:
            self._log.note(Call(self._subject, operation, arguments, None, Failure.of(error)))
            raise
        result = found if isinstance(found, State) else None
        self._log.note(Call(self._subject, operation, arguments, result))
        return found

    def _state(self, operation: str, what: State | type[State], call: Callable[[], Any]) -> Any:
        """A `get` or `put`. A state without a portable name goes through and has no place in a trace."""
        try:
            name = name_of(what if isinstance(what, type) else type(what))
        except PlanError:
            return call()
        return self._call(operation, (what if isinstance(what, State) else name,), call)

    def _create(self, operation: str, arguments: tuple[Argument, ...], call: Callable[[], Any]) -> tuple[Any, int]:
        """What `call` made, and its number as a subject."""
        try:
            made = call()
        except BaseException as error:
            self._log.note(Call(self._subject, operation, arguments, None, Failure.of(error)))
            raise
        number = self._log.new_subject()
        self._log.note(Call(self._subject, operation, arguments, number))
        return made, number


class Recorder(Noting, Closing):
    """Records what is done with `hypervisor`, which it closes with itself; see `Hypervisor`. A context manager.

    With a `path`, the trace is written there while it is made. OSError when that cannot be opened (`hypervisor` is
    closed then); a write that fails ends the recording and nothing else, and `close` raises it.
    """

    def __init__(self, hypervisor: Hypervisor, path: os.PathLike[str] | str | None = None):
        try:
            super().__init__(Log(hypervisor.facts, path), HYPERVISOR)
        except OSError:
            hypervisor.close()  # nobody else may have it
            raise
        self.inner = hypervisor
        self.facts: HostFacts = hypervisor.facts
        """Those of the hypervisor that is recorded."""

    @property
    def trace(self) -> Trace:
        """What was recorded so far."""
        return self._log.trace()

    def create_vm(self, *, deterministic: bool = False) -> RecordingVm:
        """A new, empty VM."""
        create = functools.partial(self.inner.create_vm, deterministic=deterministic)
        vm, number = self._create("create_vm", (deterministic,), create)
        return RecordingVm(vm, self._log, number)

    def close(self) -> None:
        """Close the hypervisor, then write the rest of the trace; may be called twice."""
        try:
            self._call("close", (), self.inner.close)
        finally:
            self._log.close()


class RecordingVm(Noting):
    """Records what is done with a VM; see `Vm`."""

    def __init__(self, inner: Vm, log: Log, subject: int):
        super().__init__(log, subject)
        self.inner = inner
        self._turn: Turn = threading.RLock()
        self.clock = RecordingClock(inner.clock, subject, log, self._turn)

    def map_memory(self, ram: RamRegion, *, readonly: bool = False) -> None:
        """Let the guest see a region of RAM."""
        self._call("map_memory", (ram.region, readonly), lambda: self.inner.map_memory(ram, readonly=readonly))

    def get(self, kind: type[M]) -> M:
        """A part of the state that vCPUs share."""
        found: M = self._state("get", kind, lambda: self.inner.get(kind))
        return found

    def put(self, state: VmState) -> None:
        """Set such a part."""
        self._state("put", state, lambda: self.inner.put(state))

    def create_vcpu(self, index: int, hardware_id: int | None = None) -> RecordingVcpu:
        """A new vCPU."""
        create = functools.partial(self.inner.create_vcpu, index, hardware_id)
        vcpu, number = self._create("create_vcpu", (index, hardware_id), create)
        return RecordingVcpu(vcpu, self._log, number, self._turn)

    def set_irq(self, gsi: int, level: bool) -> None:
        """Raise or lower an interrupt line."""
        try:
            self.inner.set_irq(gsi, level)
        except BaseException as error:
            self._log.note(Call(self._subject, "set_irq", (gsi, bool(level)), None, Failure.of(error)))
            raise
        self._log.add(f'[{self._subject},"set_irq",[{gsi},{"true" if level else "false"}]]\n')

    def add_irqfd(self, fd: int, gsi: int, resample_fd: int = -1) -> None:
        """Let an eventfd raise `gsi`."""
        arguments = (gsi, resample_fd >= 0)
        self._call("add_irqfd", arguments, lambda: self.inner.add_irqfd(fd, gsi, resample_fd))

    def remove_irqfd(self, fd: int, gsi: int) -> None:
        """Undo `add_irqfd`."""
        self._call("remove_irqfd", (gsi,), lambda: self.inner.remove_irqfd(fd, gsi))

    def add_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:
        """Signal an eventfd on guest writes."""
        add = functools.partial(self.inner.add_ioeventfd, fd, region, port=port, match=match)
        self._call("add_ioeventfd", (region, port, match), add)

    def remove_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:
        """Undo `add_ioeventfd`."""
        remove = functools.partial(self.inner.remove_ioeventfd, fd, region, port=port, match=match)
        self._call("remove_ioeventfd", (region, port, match), remove)

    def coalesce(self, region: Region, *, port: bool = False) -> None:
        """Gather guest writes."""
        self._call("coalesce", (region, port), lambda: self.inner.coalesce(region, port=port))

    def close(self) -> None:
        """Give the VM back; may be called twice."""
        self._call("close", (), self.inner.close)


class RecordingVcpu(Noting):
    """Records what is done with a vCPU, and what its guest does; see `Vcpu`."""

    def __init__(self, inner: Vcpu, log: Log, subject: int, turn: Turn):
        super().__init__(log, subject)
        self.inner = inner
        self.index = inner.index
        self._turn = turn
        self._in_run = threading.Lock()
        self._kick = encode(Call(subject, "kick"))
        self._notify = encode(Call(subject, "notify_interrupt"))

    def get(self, kind: type[S]) -> S:
        """A part of the vCPU's state."""
        found: S = self._state("get", kind, lambda: self.inner.get(kind))
        return found

    def put(self, state: VcpuState) -> None:
        """Set a part of the vCPU's state."""
        self._state("put", state, lambda: self.inner.put(state))

    def run(self, bus: Bus) -> Exit:
        """Run the guest, noting what it does."""
        if not self._in_run.acquire(blocking=False):  # to be refused
            found: Exit = self._call("run", (), lambda: self.inner.run(bus))
            return found
        try:
            return self._run(bus)
        finally:
            self._in_run.release()

    def _run(self, bus: Bus) -> Exit:
        self._log.note(RunBegan(self._subject))
        try:
            found = self.inner.run(RecordingBus(bus, self._subject, self._log, self._turn))
        except BaseException as error:
            self._log.note(RunEnded(self._subject, None, Failure.of(error)))
            raise
        self._log.note(RunEnded(self._subject, found))
        return found

    def take_interrupts_from(self, source: InterruptSource) -> None:
        """Wire this vCPU's INTR pin, noting what it takes."""
        noting = RecordingSource(source, self._subject, self._log, self._turn)
        self._call("take_interrupts_from", (), lambda: self.inner.take_interrupts_from(noting))

    def notify_interrupt(self) -> None:
        """Look at the interrupt source soon."""
        self._log.add(self._notify)
        self.inner.notify_interrupt()

    def record_exits(self, ring: ExitRing) -> bool:
        """Note every access in `ring`, too; what is no part of the trace."""
        return records_exits(self.inner, ring)

    def kick(self) -> None:
        """Make `run` return soon."""
        self._log.add(self._kick)
        self.inner.kick()

    def close(self) -> None:
        """Give the vCPU back; may be called twice."""
        self._call("close", (), self.inner.close)
