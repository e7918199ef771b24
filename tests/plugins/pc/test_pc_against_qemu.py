"""Our devices against QEMU's: the same accesses to both, and the same answers from both.

Where QEMU leaves something out that the data sheet has, the comparison leaves it out too, and says so.
"""

import random
import time

import pytest
from pc_context import Bench
from qemu_devices import QEMU, QemuDevices

from anyvisor_pc.i8042 import open_i8042
from anyvisor_pc.pci import open_pci
from anyvisor_pc.rtc import open_rtc
from anyvisor_pc.serial import open_serial
from anyvisor_pc.specs import I8042, PCI, RTC, SERIAL

pytestmark = pytest.mark.skipif(not QemuDevices.available(), reason=f"needs {QEMU}: apt install qemu-system-x86")

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(0x3F8, 0x400)
SERIAL_OPERATIONS = 400


@pytest.fixture
def qemu(tmp_path):
    devices = QemuDevices(tmp_path, "-serial", "null", "-rtc", "base=utc")
    yield devices
    devices.close()


class Pair:
    """The same access to both; `trail` tells what went before, should they disagree."""

    def __init__(self, qemu: QemuDevices, ours: Bench):
        self.qemu, self.ours, self.trail = qemu, ours, []

    def write(self, port: int, value: int, size_bytes: int = 1) -> None:
        self.qemu.write_port(port, size_bytes, value)
        self.ours.bus.write_port(port, size_bytes, value)
        self.trail.append(f"out {port:#x} {value:#x}")

    def read(self, port: int, size_bytes: int = 1) -> tuple[int, int]:
        both = self.qemu.read_port(port, size_bytes), self.ours.bus.read_port(port, size_bytes)
        self.trail.append(f"in {port:#x} qemu {both[0]:#x} ours {both[1]:#x}")
        return both

    def check(self, port: int, size_bytes: int = 1, mask: int = 0xFFFFFFFF) -> int:
        theirs, ours = self.read(port, size_bytes)
        assert theirs & mask == ours & mask, "; ".join(self.trail[-30:])
        return ours


# -- the serial port -----------------------------------------------------------------------------------------


def serial_value(random_source: random.Random, port: int, line_control: int) -> int:
    """A value to write, within what QEMU models.

    That is no break, and no modem status interrupt: it has no changes in loopback. The divisor stays 1, so
    that QEMU's character timeout comes soon.
    """
    value = random_source.randrange(256)
    if line_control & 0x80 and port in (DATA, IER):
        return 0 if port == IER else 1
    return {IER: value & ~0x08, MCR: value | 0x08, LCR: value & ~0x40}.get(port, value)


def check_serial(pair: Pair, port: int) -> None:
    if port == DATA and not pair.check(LSR) & 0x01 and not pair.check(LCR) & 0x80:
        return  # QEMU shows an old byte where there is none
    theirs, ours = pair.read(port)
    if port == MSR:
        theirs, ours = theirs & 0xF0, ours & 0xF0  # QEMU has no changes in loopback
    if port == IIR:  # QEMU calls data a timeout once it has waited, even beyond the trigger level
        theirs, ours = (each & ~0x08 if each & 0x0C == 0x0C else each for each in (theirs, ours))
    assert theirs == ours, "; ".join(pair.trail[-30:])


@pytest.mark.parametrize("seed", range(5))
def test_serial_port_behaves_as_qemus_does(qemu, seed):
    pair, random_source = Pair(qemu, Bench(open_serial, SERIAL)), random.Random(seed)
    for port, value in ((LCR, 0x80), (DATA, 1), (IER, 0), (LCR, 0x03), (MCR, 0x08)):
        pair.write(port, value)
    for _ in range(SERIAL_OPERATIONS):
        port = random_source.randrange(DATA, SCR + 1)
        if random_source.random() < 0.5:
            pair.write(port, serial_value(random_source, port, pair.ours.inb(LCR)))
            if port == LCR and random_source.random() < 0.7:
                pair.write(LCR, 0x03)
        else:
            check_serial(pair, port)
        qemu.settle()
        if not pair.ours.inb(MCR) & 0x10:  # QEMU lets interrupts out in loopback
            assert qemu.line_becomes(4, pair.ours.level), "; ".join(pair.trail[-30:])


def test_linux_finds_the_same_uart_in_both(qemu):
    pair = Pair(qemu, Bench(open_serial, SERIAL))
    for port, value, look in (
        (IER, 0x00, IER), (IER, 0x0F, IER), (IER, 0x00, IER), (MCR, 0x1A, MSR), (MCR, 0x08, MCR),
        (LCR, 0xBF, IIR), (LCR, 0x00, IIR), (IIR, 0x01, IIR), (LCR, 0x80, IIR), (LCR, 0xE0, IIR),
        (LCR, 0x00, MCR), (IIR, 0x21, IIR), (IIR, 0x01, IIR), (IER, 0x40, IER), (IER, 0x00, IER),
        (IER, 0x02, IIR), (IER, 0x00, IIR), (IER, 0x02, IIR),
    ):  # fmt: skip
        pair.write(port, value)
        pair.check(look, mask=0xF0 if look == MSR else 0xFF)


# -- the others ----------------------------------------------------------------------------------------------


def test_keyboard_controller_answers_as_qemus_does(qemu):
    """Only the controller: QEMU's has a keyboard and a mouse."""
    pair = Pair(qemu, Bench(open_i8042, I8042))
    for value in (0x74, 0x64, 0x04, 0x30):
        pair.write(0x64, 0x60)
        pair.write(0x60, value)
        pair.write(0x64, 0x20)
        pair.check(0x64, mask=0x21)
        pair.check(0x60)
        pair.check(0x64, mask=0x61)
    for command in (0xAA, 0xAB, 0xC0):
        pair.write(0x64, command)
        pair.check(0x64, mask=0x01)
        pair.check(0x60)
    pair.write(0x64, 0xD1)
    pair.write(0x60, 0x03)
    pair.write(0x64, 0xD0)
    pair.check(0x60, mask=0x03)
    pair.write(0x64, 0xD2)
    pair.write(0x60, 0x77)
    pair.check(0x60)


@pytest.mark.parametrize("register_b", [0x02, 0x06, 0x00, 0x04])
def test_clock_tells_the_same_time_in_every_format(qemu, register_b):
    pair = Pair(qemu, Bench(open_rtc, RTC))

    def store(index, value):
        pair.write(0x70, index)
        pair.write(0x71, value)

    def date():
        both = []
        for index in (0x32, 9, 8, 7, 6, 4, 2, 0):
            pair.write(0x70, index)
            both.append(pair.read(0x71))
        return list(zip(*both, strict=True))

    store(0x0B, register_b)
    theirs, ours = date()
    deadline = time.monotonic() + 5
    while theirs != ours and time.monotonic() < deadline:  # QEMU's second may begin at any part of ours
        theirs, ours = date()
    assert theirs == ours
    in_binary, in_24_hours = register_b & 0x04, register_b & 0x02
    for hour in range(0, 24, 5):
        number = hour if in_24_hours else (hour - 1) % 12 + 1
        hour_code = (number if in_binary else int(str(number), 16)) | (0x80 if hour >= 12 and not in_24_hours else 0)
        store(0x0B, register_b | 0x80)
        for index, value in ((0x32, 20), (9, 33), (8, 11), (7, 30), (2, 0), (0, 30)):
            store(index, value if in_binary else int(str(value), 16))
        store(4, hour_code)
        store(0x0B, register_b)
        for index in (4, 0x32, 9, 8, 7, 2):
            pair.write(0x70, index)
            pair.check(0x71)


def test_clock_registers_read_as_qemus_do(qemu):
    pair = Pair(qemu, Bench(open_rtc, RTC))
    for index in (0x0B, 0x0C, 0x0D):
        pair.write(0x70, index)
        pair.check(0x71)
    pair.write(0x70, 0x0A)
    pair.check(0x71, mask=0x7F)
    pair.check(0x70)


def test_absent_pci_devices_read_as_they_do_in_qemu(qemu):
    pair = Pair(qemu, Bench(open_pci, PCI))
    pair.check(0xCF8, 4)
    for address in (0x80000000 | 17 << 11, 0x80000000 | 9 << 16, 0x8000FF04):
        pair.write(0xCF8, address, 4)
        pair.check(0xCF8, 4)
        for size_bytes in (1, 2, 4):
            pair.check(0xCFC, size_bytes)
