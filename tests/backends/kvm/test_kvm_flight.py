"""The flight recorder on KVM: RIP from the run page, beside `keep_in_sync`, and the state that a death destroys."""

import struct

import attrs
import pytest
from tiny_guests import (
    INTERRUPT_VECTOR,
    MMIO,
    OTHER_PORT,
    OUT_THEN_SPIN,
    PORT,
    SMALLEST,
    SPIN,
    Source,
    handle_interrupt,
    protected_mode,
)

from anyvisor.exits import Halted, Kicked, Shutdown
from anyvisor.flight import ExitRing
from anyvisor.memory import Region
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs
from anyvisor_kvm import fds
from anyvisor_kvm.run_page import SYNC_REGS, VALID_REGS_U64
from anyvisor_kvm.x86_64 import abi, sync
from anyvisor_kvm.x86_64.extension import host_extension
from anyvisor_kvm.x86_64.fds import X86VcpuFd
from anyvisor_kvm.x86_64.states import get_sregs
from anyvisor_kvm.x86_64.sync import REGS_AND_SREGS, RIP_U64

pytestmark = pytest.mark.kvm

OUT, CRASH, NOP = bytes([0xE6, PORT]), bytes([0x0F, 0x0B]), bytes([0x90])  # out PORT, al; ud2; nop


@pytest.fixture
def recorded(guest):
    """Makes guests as `guest` does, with `ring`, in which their exits are noted."""

    def make(code, **options):
        made = guest(code, **options)
        made.ring = ExitRing()
        assert made.vcpu.record_exits(made.ring)
        return made

    return make


@pytest.fixture
def loses_state(monkeypatch):
    """Makes vCPUs whose hypervisor resets them at a death. Where it does not, we say that it did."""

    def make(made):
        monkeypatch.setattr(sync, "host_extension", lambda: "svm")
        made.ring = ExitRing()
        made.vcpu.record_exits(made.ring)
        if host_extension() != "svm":
            made.vcpu._shutdown = (lambda fd: True, lambda fd: ())
        return made

    return make


def seen(ring):
    return [(each.kind, each.address, each.value) for each in ring.last()]


def dying(made):
    """In protected mode, with no handler for anything."""
    protected_mode(made.vcpu)
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), idt=DescriptorTable(limit=0)))
    return made


def test_rip_and_the_two_states_lie_where_the_loop_takes_them_from():
    run = abi.kvm_sync_regs()
    run.regs.rip, run.regs.rax, run.sregs.cr3 = 0x1111, 0x2222, 0x3333
    page = bytes(SYNC_REGS) + bytes(run)
    assert struct.unpack_from("<Q", page, RIP_U64 * 8) == (0x1111,)
    kept = page[REGS_AND_SREGS]
    assert abi.kvm_regs.from_buffer_copy(kept).rax == 0x2222
    assert abi.kvm_sregs.from_buffer_copy(kept, abi.kvm_sync_regs.sregs.offset).cr3 == 0x3333


def test_rip_is_that_of_the_access(recorded):
    made = recorded(bytes([*NOP, *NOP, *SMALLEST]))
    assert made.run() == Halted()
    (noted,) = made.ring.last()
    assert noted.rip in (2, 4)


def test_what_a_user_keeps_in_sync_stays_beside_it_in_either_order(recorded, guest):
    code = bytes([*NOP, *SMALLEST])  # so that RIP is not 0
    first, second = recorded(code), guest(code)
    first.vcpu.keep_in_sync(Sregs)
    second.vcpu.keep_in_sync(Sregs)
    second.ring = ExitRing()
    second.vcpu.record_exits(second.ring)
    for made in (first, second):
        assert made.run() == Halted()
        assert made.vcpu._synced.get(Sregs) == get_sregs(made.vcpu._fd)
        assert made.vcpu._synced.get(Regs) is None, "what the recorder needs is not what the user has asked for"
        assert made.ring.last()[0].rip is not None
        made.vcpu.keep_in_sync()
        made.vcpu.put(Regs())
        assert made.run() == Halted()
        assert made.ring.last()[-1].rip is not None, "RIP is there after the user keeps nothing any more"
        assert made.vcpu._page.u64[VALID_REGS_U64] & abi.KVM_SYNC_X86_REGS


def test_recording_asks_kvm_nothing_at_an_exit_and_at_a_run_only_where_a_death_loses_the_state(recorded, monkeypatch):
    made = recorded((OUT + SMALLEST) * 50)
    real, calls = fds._libc_ioctl, []
    made.vcpu.put(Regs())
    monkeypatch.setattr(fds, "_libc_ioctl", lambda *each: calls.append(each) or real(*each))
    for _ in range(50):
        assert made.vcpu.run(made.bus) == Halted()
    assert len(made.ring.last()) == 100
    asked = [request for _, request, _ in calls if request != fds.VcpuFd.set_signal_mask.request]
    assert asked == (
        [X86VcpuFd.get_regs.request, X86VcpuFd.get_sregs.request] * 50 if host_extension() == "svm" else []
    )


def test_gathered_writes_are_noted_in_order_and_without_a_rip(recorded):
    made = recorded(bytes([0xA2, 0x04, 0x00, 0xE6, OTHER_PORT, *SMALLEST]))  # mov [4], al; out OTHER_PORT, al; ...
    made.vm.coalesce(Region(MMIO, 0x100))
    made.vm.coalesce(Region(OTHER_PORT, 4), port=True)
    assert made.run(rax=7) == Halted()
    assert seen(made.ring) == [("write", MMIO + 4, 7), ("out", OTHER_PORT, 7), ("out", PORT, 7)]
    assert [each.rip is None for each in made.ring.last()] == [True, True, False]


def test_accesses_that_cross_a_page_are_noted_as_the_devices_see_them(recorded):
    made = recorded(bytes([0x66, 0xA3, 0xFD, 0x0F, *SMALLEST]))  # mov [0xffd], eax; out PORT, al; hlt
    assert made.run(rax=0x44332211) == Halted()
    writes = [(each.address - MMIO, each.size_bytes, each.value) for each in made.ring.last() if each.kind == "write"]
    assert writes == [(offset, size, value) for offset, size, value in made.mmio.writes]
    assert sum(size for _, size, _ in writes) == 4


def test_a_guest_that_takes_interrupts_is_recorded_as_well(recorded):
    made = recorded(bytes([0xFB, *OUT, *OUT, *SPIN]), source=Source(INTERRUPT_VECTOR))  # sti; out; out; jmp .
    handle_interrupt(made.memory)
    made.ports.then = made.others.then = lambda: made.vcpu.kick() if len(made.ring.last()) == 3 else None
    assert made.run() == Kicked()
    assert sorted(address for _, address, _ in seen(made.ring)) == [PORT, PORT, OTHER_PORT]


def test_a_kick_leaves_the_ring_readable(recorded):
    made = recorded(OUT_THEN_SPIN)
    made.ports.then = made.vcpu.kick
    assert made.run(rax=5) == Kicked()
    assert seen(made.ring) == [("out", PORT, 5)]


def test_at_a_death_that_loses_the_state_the_recorder_has_that_of_the_exit_before(guest, loses_state):
    made = loses_state(dying(guest(bytes([*OUT, 0xB3, 0x99, *OUT, 0xB7, 0x77, *CRASH]))))  # mov bl, 0x99; mov bh, 0x77
    found = made.run(rbx=0x1200, rax=1)
    assert isinstance(found, Shutdown) and found.state_is_lost
    assert set(made.ring.before) == {Regs, Sregs}
    regs, sregs = made.ring.before[Regs], made.ring.before[Sregs]
    assert regs.rbx == 0x1299, "as it was at the second OUT"
    assert regs.rip in (4, 6)
    assert (sregs.cs.selector, sregs.cr0.pe, sregs.idt.limit) == (0x10, True, 0)


def test_a_guest_that_dies_before_its_first_exit_leaves_the_state_it_was_given(guest, loses_state):
    made = loses_state(dying(guest(CRASH)))
    assert made.run(rbx=0x1234).state_is_lost
    assert made.ring.before[Regs].rbx == 0x1234
    assert made.ring.before[Regs].rip == 0
    assert made.ring.before[Sregs].cr0.pe


def test_a_death_that_keeps_the_state_needs_none_before(recorded):
    made = dying(recorded(bytes([*OUT, *CRASH])))
    found = made.run(rbx=0x1234)
    assert isinstance(found, Shutdown)
    assert bool(made.ring.before) == found.state_is_lost == (host_extension() == "svm")
