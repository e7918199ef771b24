"""Our APICs against QEMU's: a guest goes through the same script on both, and reads and is interrupted by the same.

Scripts stay within what QEMU models: reserved bits are written as zero, pin 0 is left out (QEMU moves the timer to
pin 2), and the local APIC stays enabled (QEMU's accepts interrupts while it is not, and leaves its entries unmasked).
"""

import random

import pytest
from apic_bench import ENABLE, EOI, IO, LOCAL, ApicBench
from apic_judges import QemuGuest
from qemu_devices import QEMU, QemuDevices

pytestmark = pytest.mark.skipif(not QemuDevices.available(), reason=f"needs {QEMU}: apt install qemu-system-x86")

BITMAPS = range(0x100, 0x280, 0x10)
STEPS = 1300
PINS = (1, 4, 5, 23)
VECTORS = range(0x10, 0x100)
FEW_VECTORS = (0x21, 0x31, 0x32, 0x81, 0xEF)


def both(tmp_path, script):
    """What the script gives: from QEMU, and from ours."""
    return QemuGuest(tmp_path, script).run(), ApicBench().run(script)


def agree(tmp_path, script):
    theirs, ours = both(tmp_path, script)
    assert [hex(each) for each in theirs] == [hex(each) for each in ours]
    return ours


def lapic(offset, value):
    return "write", LOCAL + offset, value


def see(*offsets):
    return [("read", LOCAL + offset) for offset in offsets]


def ioapic(register, value):
    return [("write", IO, register), ("write", IO + 0x10, value)]


def see_ioapic(*registers):
    return [step for register in registers for step in (("write", IO, register), ("read", IO + 0x10))]


def entry(pin, low, destination=0):
    return [*ioapic(0x11 + 2 * pin, destination << 24), *ioapic(0x10 + 2 * pin, low)]


def test_registers_after_reset_are_qemus_but_for_the_local_pins(tmp_path):
    """QEMU leaves LINT0 and LINT1 to its firmware."""
    offsets = [0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310, 0x320, 0x330, 0x340, 0x370]
    offsets += [0x380, 0x390, 0x3E0, *BITMAPS]
    agree(tmp_path, [*see(*offsets), *see_ioapic(*range(0x40))])


def test_interrupts_are_taken_in_order_of_their_priority(tmp_path):
    sent = [lapic(0x300, 0x40000 | vector) for vector in (0x31, 0x45, 0x46, 0x82)]
    ends = [step for _ in range(4) for step in (EOI, ("take",), *see(0xA0, *BITMAPS))]
    results = agree(tmp_path, [ENABLE, *sent, *see(*BITMAPS), ("take",), *see(0xA0), *ends])
    assert [each & 0xFF for each in results if each & 0xF00 == 0x100] == [0x82, 0x46, 0x45, 0x31]


def test_task_priority_holds_back_its_class_and_what_is_below(tmp_path):
    script = [ENABLE, lapic(0x80, 0x4F), *(lapic(0x300, 0x40000 | vector) for vector in (0x41, 0x4F, 0x50))]
    for priority in (0x4F, 0x40, 0x3F, 0x00):
        script += [lapic(0x80, priority), ("take",), *see(0xA0, 0x80), EOI]
    agree(tmp_path, script)


@pytest.mark.parametrize("low", [0x8031, 0x8131, 0xA031, 0x0031])
def test_a_line_interrupts_at_once_and_again_after_its_end(tmp_path, low):
    look = [*see_ioapic(0x10 + 2 * 5), *see(0x110, 0x190, 0x210)]
    script = [ENABLE, *entry(5, low), ("line", 5, 1), *look, ("take",), *look, EOI, *look, ("take",), ("line", 5, 0)]
    agree(tmp_path, [*script, *look, EOI, *look, ("line", 5, 1), *look, ("line", 5, 0), ("take",), EOI, *look])


def test_masked_lines_wait_if_they_are_levels_and_are_forgotten_if_they_are_edges(tmp_path):
    for low, taken in ((0x8031, True), (0x0031, False)):
        script = [ENABLE, *entry(4, low | 0x10000), ("line", 4, 1), ("take",), *ioapic(0x18, low), ("take",)]
        assert (0x131 in agree(tmp_path, script)) == taken


def test_end_of_interrupt_register_of_the_io_apic(tmp_path):
    look = see_ioapic(0x10 + 2 * 4, 0x10 + 2 * 5)
    script = [ENABLE, *entry(4, 0x8031), *entry(5, 0x8032), ("line", 4, 1), ("line", 5, 1), ("take",), ("line", 4, 0)]
    agree(tmp_path, [*script, *look, ("write", IO + 0x40, 0x31), *look, ("write", IO + 0x40, 0x32), *look])


def test_an_entry_made_edge_triggered_for_a_moment_forgets_its_remote_irr(tmp_path):
    look = see_ioapic(0x18)
    script = [ENABLE, *entry(4, 0x8031), ("line", 4, 1), ("take",), *look, ("line", 4, 0)]
    agree(tmp_path, [*script, *ioapic(0x18, 0x10031), *look, *ioapic(0x18, 0x18031), *look])


@pytest.mark.parametrize(("mode", "vector_comes"), [(0, True), (1, True), (2, False), (4, False)])
def test_delivery_modes_of_a_line(tmp_path, mode, vector_comes):
    script = [ENABLE, *entry(4, 0x31 | mode << 8), ("line", 4, 1), *see(0x210)]
    theirs, ours = both(tmp_path, script) if vector_comes else ([0], ApicBench().run(script))
    assert theirs == ours == [0x20000 if vector_comes else 0]


@pytest.mark.parametrize("model", [0xFFFFFFFF, 0x0FFFFFFF])
@pytest.mark.parametrize("mine", [0x01, 0x80, 0x12, 0x00])
def test_logical_destinations(tmp_path, model, mine):
    script = [ENABLE, lapic(0xE0, model), lapic(0xD0, mine << 24)]
    for index, destination in enumerate((0x01, 0x80, 0x11, 0x12, 0x13, 0x22, 0xF2, 0x00)):
        script += [lapic(0x310, destination << 24), lapic(0x300, 0x800 | 0x20 + index)]
    agree(tmp_path, [*script, *see(0x210)])


def test_physical_destinations_and_shorthands(tmp_path):
    script = [ENABLE]
    for index, destination in enumerate((0x00, 0x01, 0xFE, 0xFF)):
        script += [lapic(0x310, destination << 24), lapic(0x300, 0x20 + index)]
    script += [lapic(0x310, 0x55 << 24), *(lapic(0x300, 0x30 + each | each << 18) for each in range(4))]
    agree(tmp_path, [*script, *see(0x210, 0x300, 0x310)])


@pytest.mark.parametrize("mode", [0, 0x20000])
def test_a_timer_that_has_run_down_interrupts_once_and_goes_on_if_it_is_periodic(tmp_path, mode):
    script = [ENABLE, lapic(0x320, 0x41 | mode), lapic(0x380, 1_000_000), ("pause",), *see(0x220), ("take",), EOI]
    theirs, ours = both(tmp_path, [*script, ("pause",), *see(0x220), ("take",)])
    assert theirs == ours
    assert ours.count(0x141) == (2 if mode else 1)


def test_a_masked_timer_runs_and_says_nothing(tmp_path):
    script = [ENABLE, lapic(0x320, 0x10041), lapic(0x380, 1_000_000), ("pause",), *see(0x380, 0x390)]
    agree(tmp_path, [*script, lapic(0x320, 0x41), *see(0x220)])


@pytest.mark.parametrize(("code", "divisor"), [(0xB, 1), (0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xA, 128)])
def test_counts_are_nanoseconds_divided(tmp_path, code, divisor):
    """QEMU's real time is the pause and whatever else this machine does; its count must be of the same size."""
    theirs, ours = both(
        tmp_path, [ENABLE, lapic(0x3E0, code), lapic(0x380, 0xFFFFFFFF), ("pause",), *see(0x390, 0x3E0)]
    )
    assert 0xFFFFFFFF - ours[0] == 30_000_000 // divisor
    assert 1 <= (0xFFFFFFFF - theirs[0]) / (0xFFFFFFFF - ours[0]) < 50
    assert theirs[1] == ours[1] == code


# -- anything ------------------------------------------------------------------------------------------------


class Author:
    """Writes a script of random steps, all of them within what QEMU models."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.levels, self.triggers = dict.fromkeys(PINS, 0), dict.fromkeys(PINS, 0)

    def script(self):
        steps = [self.ipi, self.ipi, self.take, self.take, self.end, self.end, self.priority, self.line, self.line]
        steps += [self.entry, self.entry, self.local_vector, self.destination, self.look, self.look, self.look]
        script = [ENABLE, lapic(0x350, 0x10700), lapic(0x360, 0x400), lapic(0xD0, 0x01000000)]
        while len(script) < STEPS:
            script += self.random.choice(steps)()
        return script

    def ipi(self):
        shorthand, logical = self.random.choice([0, 0, 1, 2, 3]), self.random.choice([0, 0x800])
        destination = self.random.choice([0, 1, 3, 0x11])
        low = self.random.choice(VECTORS) | self.random.choice([0, 0x100]) * (not shorthand) | shorthand << 18 | logical
        return [lapic(0x310, destination << 24), lapic(0x300, low)]

    def take(self):
        return [("take",)]

    def end(self):
        return [EOI] * self.random.choice([1, 1, 3])

    def priority(self):
        return [lapic(0x80, self.random.choice([0, 0, 0, 0x25, 0x30, 0xF0, self.random.randrange(256)]))]

    def line(self):
        pin = self.random.choice(PINS)
        self.levels[pin] ^= 1
        return [("line", pin, self.levels[pin])]

    def entry(self):
        """QEMU knows a line's level only from when its entry was level-triggered, so that changes at low lines.

        It also sets the remote IRR of a level that no local APIC accepted, so levels have a destination that does.
        """
        pin, level = self.random.choice(PINS), self.random.choice([0, 0x8000])
        flags = level | self.random.choice([0, 0, 0x10000]) | self.random.choice([0, 0x2000])
        mode, destination = self.random.choice([(0, 0), (0x100, 0), (0x100, 0xFF), *[(0x800, 1), (0, 1)] * (not level)])
        lower = [("line", pin, 0)] if level != self.triggers[pin] else []
        self.levels[pin] = 0 if lower else self.levels[pin]
        self.triggers[pin] = level
        return [*lower, *entry(pin, self.random.choice(FEW_VECTORS) | flags | mode, destination)]

    def local_vector(self):
        offset = self.random.choice([0x330, 0x340, 0x350, 0x360])
        pin = 0x12000 if offset >= 0x350 else 0x10000
        return [lapic(offset, self.random.choice(VECTORS) | 0x10000 | self.random.getrandbits(17) & pin), *see(offset)]

    def destination(self):
        logical = self.random.choice([0x01, 0x03, 0x11]) << 24
        return [lapic(0xD0, logical), lapic(0xE0, self.random.choice([0x0FFFFFFF, 0xFFFFFFFF])), *see(0xD0, 0xE0)]

    def look(self):
        registers = self.random.sample([*BITMAPS], 6)
        return [*see(0x80, 0xA0, *registers), *see_ioapic(*(0x10 + 2 * pin for pin in PINS))]


@pytest.mark.parametrize("seed", range(12))
def test_random_scripts_go_as_in_qemu(tmp_path, seed):
    results = agree(tmp_path, Author(seed).script())
    assert any(each & 0xF00 == 0x100 for each in results), "something must have been taken"
