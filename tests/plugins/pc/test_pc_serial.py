"""The UART, against National Semiconductor's PC16550D data sheet and what Linux's 8250 driver asks of it."""

import threading

import pytest
from pc_context import Bench

from anyvisor_pc.serial import open_serial
from anyvisor_pc.specs import SERIAL

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(0x3F8, 0x400)
FCR = IIR
OUT2 = 0x08


@pytest.fixture
def uart():
    bench = Bench(open_serial, SERIAL)
    yield bench
    bench.close()


@pytest.fixture
def console(uart):
    return uart.consoles["serial0"]


# -- as the data sheet has it after reset, and what Linux's autoconfig does ----------------------------------


def test_registers_after_reset(uart):
    assert [uart.inb(port) for port in range(0x3F8, 0x400)] == [0, 0, 0x01, 0, 0, 0x60, 0xB0, 0]
    assert uart.gsis == [4]
    assert uart.levels == []


def test_scratch_register_keeps_what_is_written(uart):
    for value in (0xA5, 0x5A):
        uart.outb(SCR, value)
        assert uart.inb(SCR) == value


def test_interrupt_enable_has_four_bits(uart):
    for value, kept in ((0x00, 0x00), (0xFF, 0x0F), (0x40, 0x00)):
        uart.outb(IER, value)
        assert uart.inb(IER) == kept


def test_loopback_test_of_linux(uart):
    uart.outb(MCR, 0x10 | 0x08 | 0x02)
    assert uart.inb(MSR) & 0xF0 == 0x90
    uart.outb(MCR, 0)
    assert uart.inb(MSR) & 0xF0 == 0xB0


@pytest.mark.parametrize(("control", "lines"), [(0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80), (0x1F, 0xF0)])
def test_each_modem_output_loops_back_to_its_input(uart, control, lines):
    uart.outb(MCR, control)
    assert uart.inb(MSR) & 0xF0 == lines


def test_fifos_are_detected_as_a_16550a(uart):
    uart.outb(FCR, 0x01)
    assert uart.inb(IIR) >> 6 == 3
    uart.outb(LCR, 0x80)
    assert uart.inb(IIR) == 0xC1, "no extended features register: not a 16650"
    uart.outb(LCR, 0xBF)
    assert uart.inb(IIR) == 0xC1
    uart.outb(FCR, 0x21)
    assert uart.inb(IIR) >> 5 == 6, "no 64-byte FIFO: not a 16750"
    uart.outb(LCR, 0)
    uart.outb(FCR, 0x00)
    assert uart.inb(IIR) == 0x01


def test_transmitter_interrupt_comes_again_when_enabled_again(uart):
    """Linux: UART_BUG_THRE if it does not."""
    for _ in range(2):
        uart.outb(IER, 0x02)
        assert uart.inb(IIR) == 0x02
        assert uart.inb(IIR) == 0x01
        uart.outb(IER, 0x00)


# -- divisor -------------------------------------------------------------------------------------------------


def test_divisor_latch_hides_data_and_interrupt_enable(uart, console):
    uart.outb(IER, 0x05)
    uart.outb(LCR, 0x83)
    uart.outb(DATA, 0x01)
    uart.outb(IER, 0xC2)
    assert (uart.inb(DATA), uart.inb(IER)) == (0x01, 0xC2)
    uart.outb(LCR, 0x03)
    assert uart.inb(IER) == 0x05
    assert console.end == 0


# -- transmitter ---------------------------------------------------------------------------------------------


def test_what_is_written_appears_on_the_console(uart, console):
    for byte in b"hello\xff\x00":
        uart.outb(DATA, byte)
        assert uart.inb(LSR) == 0x60
    assert console.read_output(0)[0] == b"hello\xff\x00"


def test_line_rises_when_the_transmitter_is_empty_and_falls_when_that_is_read(uart):
    uart.outb(MCR, OUT2)
    uart.outb(IER, 0x02)
    assert uart.levels == [True]
    assert uart.inb(IIR) == 0x02
    assert uart.levels == [True, False]
    uart.outb(DATA, 0x41)
    assert uart.levels == [True, False, True]


def test_a_driver_that_never_reads_the_cause_gets_an_edge_for_each_burst(uart):
    uart.outb(MCR, OUT2)
    uart.outb(IER, 0x02)
    for _ in range(3):
        before = len(uart.levels)
        assert uart.inb(LSR) == 0x60
        for _ in range(16):
            uart.outb(DATA, 0x41)
        assert uart.levels[before:] == [False, True]


def test_a_burst_after_the_cause_was_read_raises_the_line_once(uart):
    uart.outb(MCR, OUT2)
    uart.outb(IER, 0x02)
    assert uart.inb(IIR) == 0x02
    before = len(uart.levels)
    for _ in range(16):
        uart.outb(DATA, 0x41)
    assert uart.levels[before:] == [True]


def test_no_interrupt_reaches_the_pc_without_out2_or_in_loopback(uart):
    uart.outb(IER, 0x02)
    assert uart.levels == []
    uart.outb(MCR, OUT2)
    assert uart.levels == [True]
    uart.outb(MCR, OUT2 | 0x10)
    assert uart.levels == [True, False]


# -- receiver ------------------------------------------------------------------------------------------------


def test_without_fifos_one_byte_at_a_time_is_received(uart, console):
    uart.outb(MCR, OUT2)
    uart.outb(IER, 0x01)
    console.write("ab")
    assert uart.level
    assert uart.inb(IIR) == 0x04
    assert [uart.inb(DATA), uart.inb(LSR) & 1, uart.inb(DATA), uart.inb(LSR) & 1] == [
        ord("a"),
        1,
        ord("b"),
        0,
    ]
    assert uart.levels == [True, False]


@pytest.mark.parametrize(("control", "level"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_fewer_bytes_than_the_trigger_level_are_a_timeout(uart, console, control, level):
    uart.outb(FCR, control)
    uart.outb(IER, 0x01)
    console.write(bytes(level))
    assert uart.inb(IIR) == 0xC4
    uart.inb(DATA)
    assert uart.inb(IIR) == (0xCC if level > 1 else 0xC1)


def test_receiver_holds_sixteen_bytes_and_the_rest_waits_in_the_console(uart, console):
    uart.outb(FCR, 0x01)
    console.write(bytes(range(100)))
    assert len(uart.device._received) == 16
    assert bytes(uart.inb(DATA) for _ in range(100)) == bytes(range(100))
    assert uart.inb(LSR) == 0x60, "no overrun"


def test_resetting_the_receiver_drops_what_it_holds(uart, console):
    uart.outb(FCR, 0x01)
    console.write(bytes(range(16)))
    uart.outb(FCR, 0x03)
    assert uart.inb(LSR) & 1 == 0
    console.write(b"z")
    assert uart.inb(DATA) == ord("z")


def test_changing_fifo_mode_drops_what_is_held(uart, console):
    console.write(b"a")
    uart.outb(FCR, 0x01)
    assert uart.inb(LSR) & 1 == 0


def test_input_during_loopback_waits(uart, console):
    uart.outb(MCR, 0x10)
    console.write(b"x")
    assert uart.inb(LSR) & 1 == 0
    uart.outb(MCR, 0)
    assert uart.inb(DATA) == ord("x")


def test_priorities(uart, console):
    """Line status, received data, transmitter empty, modem status."""
    uart.outb(IER, 0x0F)
    uart.outb(MCR, 0x11)
    for byte in (1, 2):
        uart.outb(DATA, byte)
    seen = [uart.inb(IIR)]
    uart.inb(LSR)
    seen.append(uart.inb(IIR))
    uart.inb(DATA)
    seen.append(uart.inb(IIR))
    seen.append(uart.inb(IIR))
    uart.inb(MSR)
    seen.append(uart.inb(IIR))
    assert seen == [0x06, 0x04, 0x02, 0x00, 0x01]


# -- flow control --------------------------------------------------------------------------------------------


@pytest.fixture
def patient(uart, console):
    console.flow_control = True
    console.write(b"abc")
    return console


def received(uart):
    """What a guest gets that reads as long as there is something."""
    got = bytearray()
    while uart.inb(LSR) & 1:
        got.append(uart.inb(DATA))
    return bytes(got)


def test_with_flow_control_nothing_is_lost_to_a_driver_that_sets_its_port_up(uart, patient):
    """What Linux's 8250 driver does from its probe to the first open, as recorded from a Debian kernel."""
    for port, value in (
        (MCR, 0x03), (IER, 0x0F), (IER, 0x00), (LCR, 0xBF), (FCR, 0x00), (LCR, 0x00), (FCR, 0x01), (LCR, 0x13),
        (FCR, 0x01), (FCR, 0x07), (FCR, 0x00), (DATA, None), (MCR, 0x01), (FCR, 0x07), (FCR, 0x00), (LSR, None),
        (DATA, None), (IER, 0x02), (IER, 0x00), (LCR, 0x03), (MCR, 0x09), (LSR, None), (DATA, None), (IER, 0x05),
        (LCR, 0x93), (DATA, 0x0C), (IER, 0x00), (LCR, 0x13),
    ):  # fmt: skip
        if value is None:
            assert uart.inb(port) in (0, 0x60), "it is empty until then"
        else:
            uart.outb(port, value)
    assert not uart.level
    for port, value in ((FCR, 0x01), (FCR, 0x81), (MCR, 0x09), (MCR, 0x0B)):
        uart.outb(port, value)
    assert uart.level
    assert received(uart) == b"abc"
    uart.outb(IER, 0)
    patient.write(b"d")
    uart.outb(FCR, 0x07)
    assert received(uart) == b"", "the port was closed: it waits for who opens it again"
    uart.outb(IER, 0x05)
    assert received(uart) == b"d"


def test_with_flow_control_a_guest_that_polls_gets_its_input_and_one_that_prints_does_not(uart, patient):
    for _ in range(100):
        uart.outb(DATA, 0x41)
        assert [uart.inb(LSR) for _ in range(3)] == [0x60] * 3
    assert any(uart.inb(LSR) & 1 for _ in range(20))
    assert received(uart) == b"abc"
    uart.outb(DATA, 0x41)
    patient.write(b"d")
    assert received(uart) == b"d", "it answers, and looks for more"
    uart.outb(LCR, 0x03)
    patient.write(b"e")
    assert received(uart) == b"", "somebody else begins"


# -- loopback ------------------------------------------------------------------------------------------------


def test_loopback_receives_what_is_sent_and_the_console_sees_nothing(uart, console):
    uart.outb(MCR, 0x10)
    uart.outb(DATA, 0x42)
    assert uart.inb(LSR) == 0x61
    assert uart.inb(DATA) == 0x42
    assert console.end == 0


def test_overrun_without_fifo_replaces_the_byte_and_with_fifo_keeps_the_old_ones(uart):
    uart.outb(MCR, 0x10)
    for byte in (1, 2):
        uart.outb(DATA, byte)
    assert uart.inb(LSR) == 0x63
    assert uart.inb(LSR) == 0x61, "reading clears the overrun"
    assert uart.inb(DATA) == 2
    uart.outb(FCR, 0x01)
    for byte in range(17):
        uart.outb(DATA, byte)
    assert uart.inb(LSR) & 0x02
    assert [uart.inb(DATA) for _ in range(16)] == list(range(16))


def test_break_in_loopback_is_received_as_a_marked_zero(uart):
    uart.outb(FCR, 0x01)
    uart.outb(MCR, 0x10)
    uart.outb(IER, 0x04)
    uart.outb(DATA, 0x41)
    uart.outb(LCR, 0x43)
    assert uart.inb(IIR) == 0xC1
    assert uart.inb(LSR) == 0xE1, "an error in the FIFO, not yet at its head"
    assert uart.inb(DATA) == 0x41
    assert uart.inb(IIR) == 0xC6
    assert uart.inb(LSR) == 0xF9
    assert uart.inb(DATA) == 0
    assert uart.inb(LSR) == 0x60


def test_modem_status_tells_changes_once(uart):
    uart.outb(MCR, 0x10 | 0x04)
    uart.inb(MSR)
    uart.outb(MCR, 0x10)
    assert uart.inb(MSR) == 0x04, "ring indicator fell"
    uart.outb(MCR, 0x10 | 0x0B)
    assert uart.inb(MSR) == 0xBB
    assert uart.inb(MSR) == 0xB0


# -- accesses, threads ---------------------------------------------------------------------------------------


def test_wide_accesses_are_taken_apart(uart, console):
    uart.bus.write_port(0x3FC, 4, 0x5A_00_00_03)
    assert (uart.inb(MCR), uart.inb(SCR)) == (0x03, 0x5A)
    assert uart.bus.read_port(0x3FE, 2) == 0x5AB0
    assert uart.bus.read_port(0x3FF, 4) == 0xFFFFFF5A, "nothing beyond the eighth port"
    uart.bus.write_port(0x3F8, 2, 0x0F41)
    assert (console.text, uart.inb(IER)) == ("A", 0x0F)


def test_after_close_the_console_no_longer_calls(uart, console):
    uart.device.close()
    uart.device.close()
    console.write(b"x")
    assert uart.inb(LSR) & 1 == 0


def test_a_thread_that_is_still_typing_when_the_port_is_closed_raises_no_interrupt(uart, console):
    """`Console.write` takes the callback with its lock held and calls it afterwards: here, after `close`."""
    uart.outb(FCR, 0x01)
    uart.outb(MCR, OUT2)
    uart.outb(IER, 0x01)
    late_callback = console._notify_device
    uart.device.close()
    console.write(b"x")
    late_callback()
    assert uart.levels == []
    assert console.take_input(10) == b"x", "nor is anything taken"


def test_closing_waits_for_a_callback_that_has_begun(uart, console):
    """A callback holds the port's lock from its first step to its last interrupt."""
    uart.outb(MCR, OUT2)
    uart.outb(IER, 0x01)
    raising, may_go_on = threading.Event(), threading.Event()

    def slow_line(level):
        raising.set()
        assert may_go_on.wait(10)
        uart.levels.append(level)

    uart.device._set_interrupt = slow_line
    typist = threading.Thread(target=console.write, args=(b"x",), daemon=True)
    closer = threading.Thread(target=uart.device.close, daemon=True)
    typist.start()
    assert raising.wait(10)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive()
    may_go_on.set()
    closer.join(10)
    typist.join(10)
    assert (closer.is_alive(), uart.levels) == (False, [True])


def test_input_and_output_from_several_threads_neither_lose_nor_repeat_a_byte(uart, console):
    sent, got = bytes(range(256)) * 40, bytearray()
    uart.outb(FCR, 0x01)
    uart.outb(MCR, OUT2)
    uart.outb(IER, 0x01)

    def guest():
        while len(got) < len(sent):
            if uart.inb(LSR) & 1:
                got.append(uart.inb(DATA))
                uart.outb(DATA, got[-1])

    thread = threading.Thread(target=guest, daemon=True)
    thread.start()
    console.write(sent, timeout=20)
    thread.join(20)
    assert bytes(got) == sent
    assert console.read_output(0)[0] == sent
    assert all(first != second for first, second in zip(uart.levels, uart.levels[1:], strict=False))


def test_flood_from_both_sides_stays_bounded(uart, console):
    uart.outb(FCR, 0x01)
    for _ in range(40):
        console.output(bytes(100_000))
    with pytest.raises(TimeoutError):
        console.write(bytes(1 << 20), timeout=0.05)
    assert len(uart.device._received) == 16
    assert len(console._input) == 64 * 1024
    assert len(console._kept) <= 1 << 20
