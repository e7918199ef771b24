"""The flight recorder: known guests leave just these exits in it, in this order.

Some facts about who notes them. A vCPU may do so itself (`Vcpu.record_exits`); for one that does not, a machine notes
what the bus is asked. Either way the recorder holds the same. Only a vCPU can know RIP; where it does, that is at the
instruction or right behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from anyvisor.acts import Act, MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.bus import Bus
from anyvisor.exits import Exit, Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.flight import ExitRing
from anyvisor.hypervisor import Vcpu
from anyvisor.tapped_bus import TappedBus, bus_noting
from anyvisor.testing.bench import CODE, DATA, PORTS, Bench
from anyvisor.testing.contracts.accesses import ANSWER, device_of, each_access, enter
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64 import mmio, ports, strings

Record = Callable[[Vcpu, Bus, ExitRing], Bus]
Seen = list[tuple[str, int, int, int | None]]
"""Kind, address, size in bytes and value of accesses."""
ITEMS = 5
"""Of a string."""
FEW = 3
"""Exits that a small recorder keeps."""
MOV_AL_BYTES = 2
"""What is in front of it, where it writes."""

recorded = pytest.mark.parametrize(
    "record",
    [
        pytest.param(bus_noting, id="by-the-vcpu-if-it-can"),
        pytest.param(lambda _, bus, ring: TappedBus(bus, ring), id="by-the-bus"),
    ],
)
"""Decorator: run the test with both ways to note exits."""


def recorder_of(made: Bench, record: Record, capacity: int = 256) -> ExitRing:
    """A flight recorder for the boot processor of a bench."""
    ring = ExitRing(capacity)
    made.bus = record(made.vcpu, made.bus, ring)
    return ring


def held_by(ring: ExitRing) -> Seen:
    """The accesses that a recorder holds."""
    return [(each.kind, each.address, each.size_bytes, each.value) for each in ring.last()]


def accesses_of(does: Iterable[Act | Exit], answers: Iterable[int]) -> Seen:
    """The accesses of a guest in acts, whose reads get `answers`; a write without a value is of what was read last."""
    found: Seen = []
    answer, last = iter(answers), 0
    for act in does:
        match act:
            case PortIn() | MmioRead():
                last = next(answer)
                found.append(_access("in" if isinstance(act, PortIn) else "read", act, last))
            case PortOut() | MmioWrite():
                value = last if act.value is None else act.value
                found.append(_access("out" if isinstance(act, PortOut) else "write", act, value))
            case _:
                pass
    return found


def _access(kind: str, act: PortIn | PortOut | MmioRead | MmioWrite, value: int) -> tuple[str, int, int, int]:
    address = act.port if isinstance(act, PortIn | PortOut) else act.guest_address
    return kind, address, act.size_bytes, value


@needs(architecture="x86_64")
class FlightContract(Contract):
    """What a flight recorder holds after a known guest, whoever notes its exits."""

    @recorded
    def test_out_of_every_size_is_recorded(self, bench: MakeBench, record: Record) -> None:
        """OUTs of 1, 2 and 4 bytes: each is in the recorder once, in order, with its port and value."""
        made = bench()
        ring = recorder_of(made, record)
        made.enter(ports.WRITE_WORDS)
        assert made.run() == Halted()
        assert held_by(ring) == accesses_of(ports.WRITE_WORDS.does or (), ())

    @recorded
    def test_in_of_every_size_is_recorded_with_what_the_guest_got(self, bench: MakeBench, record: Record) -> None:
        """INs of 1, 2 and 4 bytes: the value is the device's answer, cut to size."""
        made = bench()
        answers = [0xA1, 0xB2C3, 0x12345678, 0xE4, 0xF50B, 0x9ABCDEF0]
        made.ports.answers.extend([answers[0] | 0x100, *answers[1:]])
        ring = recorder_of(made, record)
        made.enter(ports.READ_WORDS, rdi=DATA)
        assert made.run() == Halted()
        assert held_by(ring) == accesses_of(ports.READ_WORDS.does or (), answers)

    @recorded
    def test_mmio_of_every_size_is_recorded(self, bench: MakeBench, record: Record) -> None:
        """Stores and loads of 1, 2 and 4 bytes where there is no RAM, with their guest-physical addresses."""
        made = bench()
        ring = recorder_of(made, record)
        made.enter(mmio.WRITE_WORDS, rax=0x91223344, rdi=mmio.MMIO_START)
        assert made.run() == Halted()
        written = accesses_of(mmio.WRITE_WORDS.does or (), ())
        assert held_by(ring) == written
        answers = [0xA1, 0xB2C3, 0x12345678]
        made.mmio.answers.extend(answers)
        reading = mmio.reading(mmio.MMIO_START)
        made.enter(reading, rsi=mmio.MMIO_START, rdi=DATA)
        assert made.run() == Halted()
        assert held_by(ring) == written + accesses_of(reading.does or (), answers)

    @recorded
    def test_each_item_of_a_string_is_recorded(self, bench: MakeBench, record: Record) -> None:
        """REP OUTS and REP INS of n items leave n exits, as if they were n instructions."""
        made = bench()
        values = strings.values_of(2, ITEMS)
        made.memory.write(DATA, b"".join(value.to_bytes(2, "little") for value in values))
        made.ports.answers.extend(values)
        ring = recorder_of(made, record)
        port = PORTS.start
        made.enter(strings.REP_OUTS[2], rcx=ITEMS, rsi=DATA, rdx=port)
        assert made.run() == Halted()
        assert held_by(ring) == [("out", port, 2, value) for value in values]
        made.enter(strings.REP_INS[2], rcx=ITEMS, rdi=DATA, rdx=port)
        assert made.run() == Halted()
        assert held_by(ring)[ITEMS:] == [("in", port, 2, value) for value in values]

    @each_access
    @recorded
    def test_an_access_is_recorded_once_and_with_rip_if_that_is_known(
        self, bench: MakeBench, access: str, record: Record
    ) -> None:
        """One access and the OUT behind it; RIP, where it is given, lies at the instruction or right behind it."""
        made = bench()
        ring = recorder_of(made, record)
        enter(made, access)
        code = made.memory.read(CODE, 0x20)
        first, second = CODE + MOV_AL_BYTES * access.startswith("WRITE"), CODE + code.index(0xF4, 2) - 2
        assert made.run() == Halted()
        assert [value for *_, value in held_by(ring)] == [ANSWER, ANSWER]
        one, other = (each.rip for each in ring.last())
        assert one is None or first <= one <= second, f"RIP {one:#x} of an access at {first:#x}"
        assert other is None or second <= other <= second + 2, f"RIP {other:#x} of an OUT at {second:#x}"

    @each_access
    @recorded
    def test_an_access_whose_device_fails_is_the_last_in_the_recorder(
        self, bench: MakeBench, access: str, record: Record
    ) -> None:
        """What a device raises does not hide the access: it is there, once; of a read the value is None."""
        made = bench()
        ring = recorder_of(made, record)
        device = enter(made, access)

        def fail() -> None:
            raise LookupError("the device is broken")

        device.then = fail
        with pytest.raises(LookupError):
            made.run()
        (noted,) = ring.last()[:1]
        assert noted.value == (None if access.startswith("READ") else ANSWER)
        device.then = lambda: None
        assert made.run() == Halted()
        assert len(ring.last()) == 1 + len(made.others.writes), f"an access is recorded twice: {held_by(ring)}"

    @needs(Capability.KICK)
    @each_access
    @recorded
    def test_a_kick_in_an_access_does_not_record_it_twice(self, bench: MakeBench, access: str, record: Record) -> None:
        """`run` returns for a kick from a device, and goes on: the access stands in the recorder once."""
        made = bench()
        ring = recorder_of(made, record)
        enter(made, access).then = made.vcpu.kick
        assert made.run() == Kicked()
        assert made.run() == Halted()
        assert len(held_by(ring)) == len(device_of(made, access).reads) + len(device_of(made, access).writes) + 1

    @recorded
    def test_the_recorder_keeps_the_last_exits_only(self, bench: MakeBench, record: Record) -> None:
        """Of five OUTs a recorder of three has the last three; over several runs, too."""
        made = bench()
        ring = recorder_of(made, record, FEW)
        wanted = accesses_of(ports.WRITE_BYTES.does or (), ())
        for _ in range(2):
            made.enter(ports.WRITE_BYTES)
            assert made.run() == Halted()
            assert held_by(ring) == wanted[-FEW:]
