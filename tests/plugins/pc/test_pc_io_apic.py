"""The I/O APIC, against Intel's 82093AA data sheet, where QEMU cannot be asked or says something else."""

import pytest
from apic_bench import IO, ApicBench

from anyvisor.x86_64.mpentries import IoApic as MpIoApic
from anyvisor.x86_64.mpentries import IoInterrupt
from anyvisor.x86_64.mptable import MpTable

ID, VERSION, ARBITRATION = range(3)
LEVEL, MASKED, REMOTE_IRR, LOGICAL, EXTINT = 1 << 15, 1 << 16, 1 << 14, 1 << 11, 7 << 8
EOI = 0xB0


@pytest.fixture
def bench():
    made = ApicBench()
    made.enable()
    return made


def test_registers_after_reset(bench):
    assert [bench.ioapic(register) for register in (ID, VERSION, ARBITRATION)] == [0, 0x170020, 0]
    assert [bench.ioapic(register) for register in range(0x10, 0x40)] == [MASKED, 0] * 24


def test_registers_keep_their_writable_bits(bench):
    bench.redirect(4, 0xFFFFFFFF, 0xFFFFFFFF)
    assert (bench.entry(4), bench.ioapic(0x19)) == (0x1AFFF, 0xFF000000)
    for register, kept in ((ID, 0x0F000000), (VERSION, 0x170020), (ARBITRATION, 0x0F000000), (0x40, 0), (0xFF, 0)):
        bench.set_ioapic(register, 0xFFFFFFFF)
        assert bench.ioapic(register) == kept


def test_index_has_eight_bits_and_any_width_the_window_only_32(bench):
    bench.write(IO, 0xAB01)
    assert (bench.read(IO), bench.read(IO + 0x10)) == (0x01, 0x170020)
    bench.write(IO, 0x02, 1)
    assert bench.read(IO, 1) == 0x02
    bench.write(IO, 0x18)
    bench.write(IO + 0x10, 0x31, 1)
    assert (bench.read(IO + 0x10, 1), bench.read(IO + 0x10, 2), bench.read(IO + 0x10)) == (0, 0, MASKED)
    assert bench.read(IO + 0x20) == 0


def test_pins_are_wired_as_the_mp_table_says(bench):
    table = MpTable.for_cpus(1)
    assert [each.address for each in table.entries if isinstance(each, MpIoApic)] == [IO]
    wires = [(each.irq, each.pin) for each in table.entries if isinstance(each, IoInterrupt)]
    assert len(wires) == 24
    for gsi, pin in wires:
        bench.redirect(pin, 0x30 + pin)
        bench.set_line(gsi, True)
        assert bench.take() == [0x30 + pin]
        bench.set_lapic(EOI, 0)


def test_lines_without_a_pin_are_ignored(bench):
    for gsi in (-1, 24, 1000):
        bench.set_line(gsi, True)
    assert bench.take() == []


def test_an_edge_interrupts_once_however_long_the_line_is_high(bench):
    bench.redirect(4, 0x31)
    bench.set_line(4, True)
    bench.set_line(4, True)
    assert bench.take() == [0x31]
    bench.set_lapic(EOI, 0)
    bench.set_line(4, True)
    assert bench.take() == []
    bench.set_line(4, False)
    bench.set_line(4, True)
    assert bench.take() == [0x31]


def test_a_level_that_nobody_accepts_stays_free_to_be_offered_again(bench):
    bench.redirect(4, LEVEL | 0x31, 5 << 24)
    bench.set_line(4, True)
    assert bench.entry(4) == LEVEL | 0x31
    bench.redirect(4, LEVEL | 0x31)
    assert (bench.entry(4), bench.take()) == (LEVEL | REMOTE_IRR | 0x31, [0x31])


def test_a_line_that_was_high_before_its_entry_became_level_triggered_interrupts(bench):
    bench.redirect(4, 0x31)
    bench.set_line(4, True)
    assert bench.take() == [0x31]
    bench.set_lapic(EOI, 0)
    bench.redirect(4, LEVEL | 0x32)
    assert bench.take() == [0x32]


def test_a_level_masked_while_in_service_is_offered_when_it_is_unmasked_after_its_end(bench):
    bench.redirect(4, LEVEL | 0x31)
    bench.set_line(4, True)
    assert bench.take() == [0x31]
    bench.redirect(4, LEVEL | MASKED | 0x31)
    bench.set_lapic(EOI, 0)
    assert (bench.take(), bench.entry(4)) == ([], LEVEL | MASKED | 0x31)
    bench.redirect(4, LEVEL | 0x31)
    assert bench.take() == [0x31]


def test_two_levels_of_one_vector_are_both_ended(bench):
    for pin in (4, 5):
        bench.redirect(pin, LEVEL | 0x31)
        bench.set_line(pin, True)
    assert bench.take() == [0x31]
    bench.set_line(4, False)
    bench.set_lapic(EOI, 0)
    assert (bench.entry(4), bench.entry(5)) == (LEVEL | 0x31, LEVEL | REMOTE_IRR | 0x31)
    assert bench.take() == [0x31]
    bench.set_line(5, False)
    bench.set_lapic(EOI, 0)
    assert (bench.entry(5), bench.take()) == (LEVEL | 0x31, [])


def test_the_end_of_an_edge_says_nothing_to_a_level_of_another_vector(bench):
    bench.redirect(4, LEVEL | 0x31)
    bench.redirect(5, 0x41)
    bench.set_line(4, True)
    bench.set_line(5, True)
    assert bench.take() == [0x41]
    bench.set_lapic(EOI, 0)
    assert bench.entry(4) == LEVEL | REMOTE_IRR | 0x31


@pytest.mark.parametrize("mode", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("trigger", [0, LEVEL])
def test_other_delivery_modes_interrupt_nobody(bench, mode, trigger):
    bench.redirect(4, trigger | mode << 8 | 0x31)
    bench.set_line(4, True)
    assert (bench.bits(0x200), bench.entry(4)) == (set(), trigger | mode << 8 | 0x31)
