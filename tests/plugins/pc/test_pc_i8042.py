"""The keyboard controller: the reset line above all, and answers quick enough for an OS that probes it."""

import pytest
from pc_context import Bench

from anyvisor_pc.i8042 import open_i8042
from anyvisor_pc.specs import I8042

DATA, STATUS = 0x60, 0x64


@pytest.fixture
def controller():
    bench = Bench(open_i8042, I8042)
    yield bench
    bench.close()


def command(bench, code, argument=None):
    bench.outb(STATUS, code)
    if argument is not None:
        bench.outb(DATA, argument)


def answer(bench):
    assert bench.inb(STATUS) & 0x01, "no answer"
    return bench.inb(DATA)


def test_status_says_idle_and_unlocked(controller):
    assert controller.inb(STATUS) == 0x14


@pytest.mark.parametrize("code", [0xFE, 0xF0, 0xFC])
def test_pulsing_the_reset_line_asks_for_a_reset(controller, code):
    command(controller, code)
    assert controller.stops == ["reset"]


def test_pulsing_other_lines_does_nothing(controller):
    for code in (0xFF, 0xF1, 0xFD):
        command(controller, code)
    assert controller.stops == []


def test_output_port_with_reset_bit_clear_asks_for_a_reset(controller):
    command(controller, 0xD1, 0xDF)
    assert controller.stops == []
    command(controller, 0xD1, 0xDE)
    assert controller.stops == ["reset"]


def test_the_byte_fe_in_port_0x60_is_no_reset(controller):
    controller.outb(DATA, 0xFE)
    command(controller, 0x60, 0xFE)
    assert controller.stops == []


@pytest.mark.parametrize(("code", "expected"), [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x01), (0xC0, 0x80), (0xE0, 0x00)])
def test_commands_with_an_answer(controller, code, expected):
    command(controller, code)
    assert answer(controller) == expected
    assert controller.inb(STATUS) & 0x01 == 0


def test_configuration_reads_back_as_linux_checks_it(controller):
    command(controller, 0x20)
    first = answer(controller)
    command(controller, 0x20)
    assert answer(controller) == first == 0x65
    command(controller, 0x60, 0x74)
    command(controller, 0x20)
    assert answer(controller) == 0x74


def test_all_32_bytes_of_ram(controller):
    for index in range(32):
        command(controller, 0x60 + index, index * 7)
    for index in range(32):
        command(controller, 0x20 + index)
        assert answer(controller) == index * 7


def test_devices_are_switched_in_the_configuration(controller):
    for code, expected in ((0xAD, 0x75), (0xAE, 0x65), (0xA8, 0x45), (0xA7, 0x65)):
        command(controller, code)
        command(controller, 0x20)
        assert answer(controller) == expected


def test_mouse_loopback_shows_there_is_no_mouse_port(controller):
    """Linux wants the answer marked as the mouse's (status bit 5); without the mark it gives up at once."""
    command(controller, 0xD3, 0x5A)
    assert controller.inb(STATUS) & 0x21 == 0x01
    assert controller.inb(DATA) == 0x5A


def test_a_byte_for_the_absent_keyboard_is_answered_with_resend_timeout_and_interrupt(controller):
    assert controller.gsis == [1]
    controller.outb(DATA, 0xF2)
    assert controller.inb(STATUS) & 0x41 == 0x41
    assert controller.levels == [True]
    assert controller.inb(DATA) == 0xFE
    assert controller.levels == [True, False]
    assert controller.inb(STATUS) & 0x41 == 0


def test_no_interrupt_unless_enabled(controller):
    command(controller, 0x60, 0x64)
    controller.outb(DATA, 0xF2)
    assert controller.levels == []
    command(controller, 0x60, 0x65)
    assert controller.levels == [True], "the byte is still there"


def test_a_command_forgets_the_argument_of_the_one_before(controller):
    controller.outb(STATUS, 0xD1)
    controller.outb(STATUS, 0xAA)
    controller.outb(DATA, 0x00)
    assert controller.stops == []
