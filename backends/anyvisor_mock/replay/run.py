"""One `run` of a replay: the guest's acts on the caller's bus, each in its turn, and the end."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import attrs

from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.bus import Bus
from anyvisor.exits import Exit, Kicked
from anyvisor.interrupts import InterruptSource
from anyvisor.recording.failure import Failure
from anyvisor.recording.trace import Acted, Call, DeviceRaised, Done, Event, InterruptTaken, RunBegan, RunEnded
from anyvisor_mock.replay.judge import Judge, act_words
from anyvisor_mock.replay.order import Order


@attrs.define
class Recorded:
    """A run as it was: acts with their numbers and what their devices raised, the end, and whether a kick caused it."""

    acts: list[tuple[int, Done, Failure | None]] = attrs.field(factory=list)
    end: tuple[int, RunEnded] | None = None
    kicked: bool = False


def runs_of(events: Iterable[tuple[int, Event]]) -> dict[int, Recorded]:
    """The runs of a vCPU, by the number of their beginning, from all that happened to it."""
    runs: dict[int, Recorded] = {}
    run = Recorded()
    kicked = False
    for number, event in events:
        if isinstance(event, RunBegan):
            run = runs[number] = Recorded()
        elif isinstance(event, Acted):
            run.acts.append((number, event.act, None))
        elif isinstance(event, DeviceRaised):
            run.acts[-1] = (*run.acts[-1][:2], event.failure)
        elif isinstance(event, RunEnded):
            run.end = (number, event)
            if isinstance(event.exit, Kicked):
                run.kicked, kicked = kicked, False
        elif isinstance(event, Call) and event.operation == "kick":
            kicked = True
    return runs


class Player:
    """Does what a vCPU's guest did. `source` is where its interrupts come from, where it has one."""

    def __init__(self, subject: int, name: str, order: Order, judge: Judge):
        self.source: InterruptSource | None = None
        self._subject = subject
        self._name = name
        self._order = order
        self._judge = judge
        self._in_run = threading.Lock()

    def kick(self) -> None:
        """Let a `Kicked` that is waiting come, or the next one."""
        self._order.kick(self._subject)

    def play(self, run: Recorded, bus: Bus) -> Exit:
        """Do all of a run; who waits for a turn of the same VM is told when that fails."""
        if not self._in_run.acquire(blocking=False):
            self._judge.lacks(f"{self._name}: run came while it was in run, and that was not recorded")
        self._order.enter(self._subject)
        try:
            raised = self._acts(run, bus)
            return self._end(run, raised)
        finally:
            self._order.leave(self._subject)
            self._in_run.release()

    def _acts(self, run: Recorded, bus: Bus) -> BaseException | None:
        """Do the acts, each in its turn; what a device raised first, as it did."""
        first: BaseException | None = None
        for number, act, failure in run.acts:
            self._order.begin(self._subject, number)
            try:
                first = self._act(number, act, failure, bus) or first
            except BaseException as error:
                self._order.stop(str(error))
                raise
            self._order.end()
        return first

    def _act(self, number: int, act: Done, failure: Failure | None, bus: Bus) -> BaseException | None:
        what = f"{self._name}, event {number}: {act_words(act)}"
        try:
            answer = self._perform(act, bus)
        except Exception as error:  # noqa: BLE001 - a device may raise anything
            if failure is None or Failure.of(error).kind != failure.kind:
                told = "no error" if failure is None else str(failure)
                self._judge.differs(f"{what}: the device raised {error!r}, {told} was recorded", error)
            return error
        if failure is not None:
            self._judge.differs(f"{what}: the device raised nothing, {failure} was recorded")
        elif answer != (recorded := act.vector if isinstance(act, InterruptTaken) else act.value):
            self._judge.differs(f"{what}: the answer was {_hex(answer)}, {_hex(recorded)} was recorded")
        return None

    def _perform(self, act: Done, bus: Bus) -> int | None:
        """Do one act on the bus; what was answered, or what was written."""
        match act:
            case PortIn(port, size_bytes):
                return bus.read_port(port, size_bytes)
            case PortOut(port, size_bytes, int(value)):
                bus.write_port(port, size_bytes, value)
            case MmioRead(guest_address, size_bytes):
                return bus.read_mmio(guest_address, size_bytes)
            case MmioWrite(guest_address, size_bytes, int(value)):
                bus.write_mmio(guest_address, size_bytes, value)
            case InterruptTaken() if self.source is not None:
                return self.source.acknowledge()
            case _:
                self._judge.lacks(f"{self._name}: {act} cannot be done again")
        return value

    def _end(self, run: Recorded, raised: BaseException | None) -> Exit:
        if run.end is None:
            self._judge.lacks(f"{self._name}: the trace ends here, after {len(run.acts)} acts of a run that went on")
        number, end = run.end
        self._order.begin(self._subject, number)
        if run.kicked:
            self._order.wait_for_kick(self._subject)
        self._order.end()
        if end.exit is not None:
            return end.exit
        assert end.failure is not None
        if raised is not None and Failure.of(raised).kind == end.failure.kind:
            raise raised
        raise end.failure.error()


def _hex(value: int | None) -> str:
    return "nothing" if value is None else hex(value)
