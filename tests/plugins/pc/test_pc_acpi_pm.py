"""The power-management device, used as ACPI drivers use it, and compared with QEMU's PIIX4."""

import json

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from pc_context import Bench, HandClock
from qemu_devices import QEMU, QemuDevices, StoppedQemu

from anyvisor.x86_64.acpi.power import PM_TIMER_HZ, SOFT_OFF
from anyvisor_pc.acpi_pm import open_acpi_pm
from anyvisor_pc.specs import ACPI_PM

STATUS, ENABLE, CONTROL, TIMER, RESET, SLEEP_CONTROL, SLEEP_STATUS = 0x600, 0x602, 0x604, 0x608, 0x60C, 0x610, 0x611
SLP_EN, SCI_EN, TMR = 0x2000, 1, 1
HALF_TURN = -(-(1 << 31) * 10**9 // PM_TIMER_HZ)
"""Nanoseconds until the timer's highest bit changes first."""
REDUCED = attrs.evolve(ACPI_PM, settings={"reduced": True})


@pytest.fixture
def bench():
    return Bench(open_acpi_pm, ACPI_PM, clock=HandClock())


@pytest.fixture
def reduced():
    return Bench(open_acpi_pm, REDUCED, clock=HandClock())


def read(bench, port, size_bytes=2):
    return bench.bus.read_port(port, size_bytes)


def write(bench, port, value, size_bytes=2):
    bench.bus.write_port(port, size_bytes, value)


def test_acpi_is_in_charge_from_the_start(bench):
    assert read(bench, CONTROL) == SCI_EN
    write(bench, CONTROL, 0)
    assert read(bench, CONTROL) == SCI_EN
    assert (read(bench, STATUS), read(bench, ENABLE), bench.levels) == (0, 0, [])


def test_linux_switches_off_in_two_writes(bench):
    """The sequence of acpi_hw_legacy_sleep: clear the wake status, set the type, then the type and SLP_EN."""
    write(bench, STATUS, 0x8000)
    control = read(bench, CONTROL) & ~0x3C00 | SOFT_OFF << 10
    write(bench, CONTROL, control)
    assert bench.stops == []
    assert read(bench, CONTROL) == SCI_EN | SOFT_OFF << 10
    write(bench, CONTROL, control | SLP_EN)
    assert bench.stops == ["shutdown"]
    assert not read(bench, CONTROL) & SLP_EN, "it is written only"


def test_one_byte_is_enough_to_switch_off(bench):
    write(bench, CONTROL + 1, (SOFT_OFF << 10 | SLP_EN) >> 8, 1)
    assert bench.stops == ["shutdown"]


@pytest.mark.parametrize("number", [number for number in range(8) if number != SOFT_OFF])
def test_other_sleep_types_do_nothing(number, bench):
    write(bench, CONTROL, number << 10 | SLP_EN)
    assert bench.stops == []


@pytest.mark.parametrize("reduced", [False, True])
def test_the_reset_register_resets_with_its_value_only(reduced):
    bench = Bench(open_acpi_pm, REDUCED if reduced else ACPI_PM)
    for value in (0, 2, 0xFF):
        write(bench, RESET, value, 1)
    assert bench.stops == []
    write(bench, RESET, 1, 1)
    assert bench.stops == ["reset"]
    bench.close()


def test_the_timer_has_32_bits_and_its_own_frequency(bench):
    assert read(bench, TIMER, 4) == 0
    for seconds, ticks in ((1, 3_579_545), (100, 357_954_500), (1200, 1200 * 3_579_545 - (1 << 32))):
        bench.clock.go_to(seconds * 10**9)
        assert read(bench, TIMER, 4) == ticks
        assert [read(bench, TIMER + i, 1) for i in range(4)] == list(ticks.to_bytes(4, "little"))


def test_writes_to_the_timer_are_ignored(bench):
    bench.clock.go_to(10**9)
    write(bench, TIMER, 0, 4)
    assert read(bench, TIMER, 4) == 3_579_545


def test_the_timers_highest_bit_sets_a_status_each_time_it_changes(bench):
    bench.clock.go_to(HALF_TURN - 1)
    assert read(bench, STATUS) == 0 and read(bench, TIMER, 4) == 0x7FFFFFFF
    bench.clock.go_to(HALF_TURN)
    assert read(bench, STATUS) == TMR and read(bench, TIMER, 4) == 0x80000000
    write(bench, STATUS, 0xFFFE)
    assert read(bench, STATUS) == TMR, "a zero clears nothing"
    write(bench, STATUS, TMR)
    assert read(bench, STATUS) == 0
    bench.clock.go_to(2 * HALF_TURN)
    assert read(bench, STATUS) == TMR and read(bench, TIMER, 4) < 10
    assert bench.levels == [], "nobody enabled it"


def test_an_enabled_status_holds_the_sci_until_it_is_cleared_or_disabled(bench):
    write(bench, ENABLE, TMR)
    bench.clock.go_to(HALF_TURN - 1)
    assert bench.levels == []
    bench.clock.go_to(HALF_TURN)
    assert bench.levels == [True]
    bench.clock.go_to(HALF_TURN + 10**9)
    write(bench, STATUS, TMR)
    assert bench.levels == [True, False]
    bench.clock.go_to(2 * HALF_TURN)
    write(bench, ENABLE, 0)
    assert bench.levels == [True, False, True, False]
    write(bench, ENABLE, TMR)
    assert bench.level
    assert bench.gsis == [9]


def test_a_status_from_before_interrupts_when_it_is_enabled(bench):
    bench.clock.go_to(5 * HALF_TURN)
    write(bench, ENABLE, TMR)
    assert bench.level
    write(bench, STATUS, TMR)
    assert bench.levels == [True, False]


def test_enables_keep_what_the_registers_have(bench):
    """ACPICA enables the global lock's event and believes that it is there if the bit reads back."""
    write(bench, ENABLE, 0xFFFF)
    assert read(bench, ENABLE) == 0x0721
    write(bench, ENABLE + 1, 0, 1)
    assert read(bench, ENABLE) == 0x21
    assert read(bench, STATUS, 4) == 0x21 << 16


def test_a_closed_device_is_silent(bench):
    write(bench, ENABLE, TMR)
    bench.device.close()
    bench.device.close()
    bench.clock.go_to(3 * HALF_TURN)
    for timer in bench.clock.timers:
        timer.call()  # one that was on its way
    assert bench.levels == []


def test_the_reduced_profile_switches_off_by_a_byte(reduced):
    assert read(reduced, SLEEP_CONTROL, 1) == 0 and read(reduced, SLEEP_STATUS, 1) == 0
    write(reduced, SLEEP_STATUS, 0x80, 1)
    for number in range(8):
        write(reduced, SLEEP_CONTROL, number << 2, 1)
        assert read(reduced, SLEEP_CONTROL, 1) == number << 2
        assert reduced.stops == []
        write(reduced, SLEEP_CONTROL, number << 2 | 0x20, 1)
        assert read(reduced, SLEEP_CONTROL, 1) == number << 2
        assert reduced.stops == (["shutdown"] if number == SOFT_OFF else [])
        reduced.stops.clear()


def test_each_profile_has_its_own_registers_only(bench, reduced):
    assert read(bench, SLEEP_CONTROL) == 0xFFFF
    write(bench, SLEEP_CONTROL, SOFT_OFF << 2 | 0x20, 1)
    for port in (STATUS, ENABLE, CONTROL, TIMER):
        assert read(reduced, port) == 0xFFFF
        write(reduced, port, 0xFFFF)
    write(reduced, CONTROL, SOFT_OFF << 10 | SLP_EN)
    assert bench.stops == reduced.stops == []


# -- QEMU ------------------------------------------------------------------------------------------------------

needs_qemu = pytest.mark.skipif(not QemuDevices.available(), reason=f"needs {QEMU}: apt install qemu-system-x86")
PIIX4_PM, PM_BASE, PM_ENABLE, SMI_PORT, ACPI_ON = 0x80000B00, 0x40, 0x80, 0xB2, 0xF1
"""The function's configuration address (0:1.3), its registers, and the command that puts ACPI in charge."""


@pytest.fixture
def qemu(tmp_path):
    """QEMU's power management at our ports, with ACPI in charge."""
    devices = StoppedQemu(tmp_path)
    for register, value in ((PM_BASE, 0x601), (PM_ENABLE, 1)):
        devices.write_port(0xCF8, 4, PIIX4_PM | register)
        devices.write_port(0xCFC, 4, value)
    devices.write_port(SMI_PORT, 1, ACPI_ON)
    yield devices
    devices.close()


def events(qemu) -> list[str]:
    """The names of what QEMU's monitor tells by itself, up to the answer to a question."""
    qemu.monitor_file.write(json.dumps({"execute": "query-status"}) + "\n")
    qemu.monitor_file.flush()
    found = []
    while "return" not in (told := json.loads(qemu.monitor_file.readline())):
        found.append(told["event"])
    return found


@needs_qemu
@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from([ENABLE, CONTROL]), st.integers(0, 0xFFFF)), max_size=30))
def test_any_writes_leave_the_registers_as_in_qemu(qemu, accesses):
    """QEMU keeps all sixteen bits of what is written; ours those that mean something."""
    ours = Bench(open_acpi_pm, ACPI_PM, clock=HandClock())
    qemu.write_port(ENABLE, 4, SCI_EN << 16)  # as ours is at first
    for port, value in accesses:
        if port == CONTROL:
            value = value & ~SLP_EN | SCI_EN  # noqa: PLW2901 - a guest could switch ACPI off in QEMU
        qemu.write_port(port, 2, value)
        write(ours, port, value)
        assert qemu.read_port(ENABLE, 2) & 0x0721 == read(ours, ENABLE)
        assert qemu.read_port(CONTROL, 2) & 0x1C03 == read(ours, CONTROL)


STEPS = {
    "enable, clear": [(ENABLE, TMR), (STATUS, 0), (STATUS, TMR), (ENABLE, 0)],
    "clear, enable": [(STATUS, 0xFFFE), (STATUS, 0xFFFF), (ENABLE, TMR), (STATUS, TMR)],
    "disable, enable, disable": [(ENABLE, TMR), (ENABLE, 0x720), (ENABLE, 0x721), (ENABLE, 0), (STATUS, TMR)],
}


@needs_qemu
@pytest.mark.parametrize("steps", STEPS)
def test_status_and_sci_follow_the_same_writes_as_in_qemu(steps, qemu):
    """Status is set on both sides: QEMU's from the start, ours since its first half turn."""
    ours = Bench(open_acpi_pm, ACPI_PM, clock=HandClock(HALF_TURN))
    assert qemu.read_port(STATUS, 2) == read(ours, STATUS) == TMR
    for port, value in STEPS[steps]:
        qemu.write_port(port, 2, value)
        write(ours, port, value)
        assert qemu.read_port(STATUS, 2) == read(ours, STATUS)
        assert qemu.line_becomes(9, ours.level)


@needs_qemu
def test_the_timer_counts_as_in_qemu(qemu):
    """QEMU's has 24 bits; ours has eight more above them."""
    ours = Bench(open_acpi_pm, ACPI_PM, clock=HandClock())
    for _ in range(20):
        now = qemu.run(0.001)
        ours.clock.go_to(now)
        theirs = qemu.read_port(TIMER, 4)
        assert 0 <= (theirs - read(ours, TIMER, 4)) % (1 << 24) <= 1, "QEMU's HPET is rounded down to 10 ns"


@needs_qemu
def test_both_switch_off_at_the_same_write(qemu):
    """QEMU's sleep type for that is 0."""
    ours = Bench(open_acpi_pm, ACPI_PM, clock=HandClock())
    for value, ours_value in ((0, SOFT_OFF << 10), (SLP_EN, SOFT_OFF << 10 | SLP_EN)):
        assert ours.stops == []
        assert "SHUTDOWN" not in events(qemu)
        qemu.write_port(CONTROL, 2, value)
        write(ours, CONTROL, ours_value)
    assert ours.stops == ["shutdown"]
