"""I/O that does not come exit by exit: eventfds in place of lines and exits, and coalesced writes."""

import os
import threading
import time

import attrs
import pytest
from tiny_guests import (
    MMIO,
    OTHER_PORT,
    PORT,
    SMALLEST,
    WAIT_FOR_INTERRUPT,
    handle_interrupt,
)

from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.exits import Halted, Kicked
from anyvisor.memory import Region

pytestmark = pytest.mark.kvm


@pytest.fixture
def eventfd():
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def signalled(fd):
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def test_an_irqfd_raises_an_interrupt(guest, eventfd):
    made = guest(WAIT_FOR_INTERRUPT, irqchip=True)
    handle_interrupt(made.memory)
    made.vm.add_irqfd(eventfd, 4)
    made.ports.then = lambda: os.eventfd_write(eventfd, 1)
    made.others.then = made.vcpu.kick
    assert made.run(rsp=0x8000) == Kicked()
    assert made.others.values == [0x99]


def test_a_removed_irqfd_raises_nothing(guest, eventfd):
    made = guest(WAIT_FOR_INTERRUPT, irqchip=True)
    handle_interrupt(made.memory)
    made.vm.add_irqfd(eventfd, 4)
    made.vm.remove_irqfd(eventfd, 4)
    made.ports.then = lambda: (os.eventfd_write(eventfd, 1), made.vcpu.kick())
    assert made.run(rsp=0x8000) == Kicked()
    assert made.others.values == []
    assert signalled(eventfd) == 1


def test_a_resampling_irqfd_tells_of_the_end_of_interrupt(guest, eventfd):
    """Line 4 level-triggered (ELCR, port 0x4d0), so that it stays up until the guest's end of interrupt."""
    level_triggered = bytes([0xB0, 0x10, 0xBA, 0xD0, 0x04, 0xEE])  # mov al, 0x10; mov dx, 0x4d0; out dx, al
    end_of_interrupt = bytes([0xB0, 0x20, 0xE6, 0x20, 0xE6, OTHER_PORT, 0xCF])  # mov al, 0x20; out 0x20, al; ...; iret
    resample = os.eventfd(0, os.EFD_NONBLOCK)
    made = guest(level_triggered + WAIT_FOR_INTERRUPT, irqchip=True)
    handle_interrupt(made.memory)
    made.memory.write(0x100, end_of_interrupt)
    made.vm.add_irqfd(eventfd, 4, resample)
    made.ports.then = lambda: os.eventfd_write(eventfd, 1)
    made.others.then = made.vcpu.kick
    assert made.run(rsp=0x8000) == Kicked()
    assert signalled(resample) == 1
    os.close(resample)


WRITE_FIVE_THEN_SIX = bytes([0xB0, 5, 0xE6, OTHER_PORT,      # mov al, 5; out OTHER_PORT, al
                             0xB0, 6, 0xE6, OTHER_PORT,      # mov al, 6; out OTHER_PORT, al
                             0xF4])  # hlt  # fmt: skip


def test_an_ioeventfd_on_a_port_takes_the_write_that_matches(guest, eventfd):
    made = guest(WRITE_FIVE_THEN_SIX)
    made.vm.add_ioeventfd(eventfd, Region(OTHER_PORT, 1), port=True, match=5)
    assert made.run() == Halted()
    assert (signalled(eventfd), made.others.values) == (1, [6])


def test_a_removed_ioeventfd_lets_all_writes_through(guest, eventfd):
    made = guest(WRITE_FIVE_THEN_SIX)
    for change in (made.vm.add_ioeventfd, made.vm.remove_ioeventfd):
        change(eventfd, Region(OTHER_PORT, 1), port=True, match=5)
    assert made.run() == Halted()
    assert (signalled(eventfd), made.others.values) == (0, [5, 6])


def test_an_ioeventfd_in_mmio_takes_writes_of_its_size(guest, eventfd):
    code = bytes([0xC7, 0x06, 0, 0, 0x34, 0x12,      # mov word [0], 0x1234
                  0xC6, 0x06, 0, 0, 0x5A, 0xF4])  # mov byte [0], 0x5a; hlt  # fmt: skip
    made = guest(code)
    made.vm.add_ioeventfd(eventfd, Region(MMIO, 2))
    assert made.run() == Halted()
    assert (signalled(eventfd), made.mmio.writes) == (1, [(0, 1, 0x5A)])


def test_an_ioeventfd_of_an_odd_size_is_refused(guest, eventfd):
    with pytest.raises(HypervisorError, match=r"KVM_IOEVENTFD \(doorbell 0xd0000-0xd0002\): EINVAL"):
        guest().vm.add_ioeventfd(eventfd, Region(MMIO, 3, "doorbell"))


def test_numbers_that_do_not_fit_are_refused_and_not_cut_off(guest, eventfd):
    made = guest()
    with pytest.raises(HypervisorError, match=r"kvm_ioeventfd \(datamatch=0x10000000000000005 does not fit"):
        made.vm.add_ioeventfd(eventfd, Region(MMIO, 4), match=(1 << 64) + 5)
    with pytest.raises(HypervisorError, match=r"kvm_irqfd \(gsi=0x100000004 does not fit"):
        made.vm.add_irqfd(eventfd, (1 << 32) + 4)


def all_writes_of(made):
    """One list of what all devices are written, in order."""
    log = []
    for name in ("ports", "others", "mmio"):
        device = getattr(made, name)
        device.then = lambda name=name, device=device: log.append((name, *device.writes[-1]))
    return log


def test_coalesced_writes_arrive_in_order_and_before_the_exit_that_follows(guest):
    code = bytes([0xC6, 0x06, 0, 0, 0x11,                          # mov byte [0], 0x11
                  0xB0, 0x22, 0xE6, OTHER_PORT,                    # mov al, 0x22; out OTHER_PORT, al
                  0x66, 0xC7, 0x06, 4, 0, 0x33, 0, 0, 0x80,        # mov dword [4], 0x80000033
                  0xB0, 0x44, 0xE6, PORT,                          # mov al, 0x44; out PORT, al   at once
                  0xC7, 0x06, 8, 0, 0x55, 0x55,                    # mov word [8], 0x5555
                  0xF4])  # hlt  # fmt: skip
    made = guest(code)
    log = all_writes_of(made)
    made.vm.coalesce(Region(MMIO, 0x100))
    made.vm.coalesce(Region(OTHER_PORT, 4), port=True)
    assert made.run() == Halted()
    assert log == [
        ("mmio", 0, 1, 0x11),
        ("others", 0, 1, 0x22),
        ("mmio", 4, 4, 0x80000033),
        ("ports", 0, 1, 0x44),
        ("mmio", 8, 2, 0x5555),
    ]


def test_more_coalesced_writes_than_the_ring_holds_all_arrive(guest):
    code = bytes([0x89, 0x0E, 0, 0,     # again: mov [0], cx
                  0xE2, 0xFA,           # loop again
                  0xF4])  # hlt  # fmt: skip
    made = guest(code)
    made.vm.coalesce(Region(MMIO, 0x100))
    assert made.run(rcx=1000) == Halted()
    assert made.mmio.values == list(range(1000, 0, -1))


def test_coalesced_writes_are_delivered_when_the_vcpu_is_kicked(guest):
    made = guest(bytes([0xC6, 0x06, 0, 0, 0x11, *SMALLEST]))  # mov byte [0], 0x11; out PORT, al; hlt
    made.vm.coalesce(Region(MMIO, 0x100))
    made.ports.then = made.vcpu.kick
    assert made.run() == Kicked()
    assert made.mmio.values == [0x11]


def test_a_kick_delivers_what_was_gathered_since_the_last_exit(guest):
    code = bytes([0xE6, PORT,                  # out PORT, al
                  0xC6, 0x06, 0, 0, 0x11,      # mov byte [0], 0x11
                  0x26, 0xC6, 0x06, 0, 0x30, 1,  # mov byte es:[0x3000], 1
                  0xEB, 0xFE])  # jmp .  # fmt: skip
    made = guest(code)
    made.vm.coalesce(Region(MMIO, 0x100))

    def kick_once_it_spins():
        while made.memory.read(0x3000, 1) == b"\0":
            time.sleep(0.001)
        made.vcpu.kick()

    made.ports.then = threading.Thread(target=kick_once_it_spins, daemon=True).start
    assert made.run() == Kicked()
    assert made.mmio.values == [0x11]


def test_what_kvm_lacks_is_unsupported(guest, eventfd):
    made = guest()
    made.vm._host = attrs.evolve(made.vm._host, facts=attrs.evolve(made.vm._host.facts, capabilities=frozenset()))
    for attempt in (
        lambda: made.vm.add_irqfd(eventfd, 4),
        lambda: made.vm.add_ioeventfd(eventfd, Region(MMIO, 4)),
        lambda: made.vm.coalesce(Region(MMIO, 4)),
        lambda: made.vm.set_irq(4, True),
        lambda: made.vm.map_memory(next(iter(made.memory)), readonly=True),
    ):
        with pytest.raises(Unsupported, match=r"ask facts.has\(Capability"):
            attempt()
