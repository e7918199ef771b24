"""Every state there and back: what is put is what is got, and what KVM refuses is an error that says what."""

import struct

import attrs
import pytest
from tiny_guests import HALT, OUT_THEN_SPIN, PORT, protected_mode

from anyvisor.codec import name_of
from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.x86_64.chips import Clock, Irqchip, Pit
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.lapic import DeliveryMode, Lapic, LocalVector
from anyvisor.x86_64.msrs import MsrEntry, Msrs
from anyvisor.x86_64.state import (
    VCPU_STATES,
    Activity,
    DebugRegs,
    DescriptorTable,
    Fpu,
    MpState,
    Regs,
    SegmentRegister,
    Sregs,
    VcpuEvents,
    Xcrs,
    Xsave,
)
from anyvisor_kvm.x86_64 import abi
from anyvisor_kvm.x86_64.fds import fetch_cpuid
from anyvisor_kvm.x86_64.states import VCPU_STATES as TABLE
from rounds import rounds

pytestmark = pytest.mark.kvm

EFER, TSC, STAR, LSTAR, NO_SUCH_MSR = 0xC0000080, 0x10, 0xC0000081, 0xC0000082, 0x12345


def test_the_restore_order_is_cores_with_fpu_before_the_xsave_that_contains_it():
    order = list(TABLE)
    assert [kind for kind in order if kind is not Fpu] == list(VCPU_STATES)
    assert order.index(Fpu) < order.index(Xsave)


def test_the_facts_name_every_state_in_restore_order(kvm):
    assert kvm.facts.states == tuple(map(name_of, (Irqchip, Pit, *TABLE, Clock)))


def test_registers_have_the_same_order_in_both_worlds():
    ours = [each.name for each in attrs.fields(Regs)]
    assert ours == sorted(ours, key=lambda name: getattr(abi.kvm_regs, name).offset)


@pytest.fixture
def vcpu(guest, kvm):
    made = guest(HALT, irqchip=True).vcpu
    made.put(kvm.facts.supported_state(Cpuid))
    return made


def test_every_state_of_a_fresh_vcpu_can_be_put_back(vcpu):
    before = {kind: vcpu.get(kind) for kind in TABLE}
    for state in before.values():
        vcpu.put(state)
    after = {kind: vcpu.get(kind) for kind in TABLE}
    before[Msrs], after[Msrs] = before[Msrs].without(TSC), after[Msrs].without(TSC)
    assert after == before


def test_general_registers(vcpu):
    names = [each.name for each in attrs.fields(Regs) if each.name != "rflags"]
    values = {name: 0x0101010101010101 * (index + 1) for index, name in enumerate(names)}
    vcpu.put(Regs(**values, rflags=0x246))
    assert vcpu.get(Regs) == Regs(**values, rflags=0x246)


def test_segments_tables_and_control_registers(vcpu):
    protected_mode(vcpu)
    data = SegmentRegister(
        base=0x12345000,
        limit=0xFFFFFFFF,
        selector=0x2B,
        type=3,
        s=True,
        dpl=3,
        present=True,
        avl=True,
        db=True,
        g=True,
    )
    wanted = attrs.evolve(
        vcpu.get(Sregs),
        fs=data,
        gs=attrs.evolve(data, base=0xFEDCBA0987654321 >> 1),
        gdt=DescriptorTable(0x11000, 0x27),
        idt=DescriptorTable(0x12000, 0xFFF),
        cr2=0xDEAD000,
        cr3=0xBEEF000,
        cr8=5,
    )
    vcpu.put(wanted)
    assert vcpu.get(Sregs) == wanted


def test_an_interrupt_bitmap_of_256_bits_is_carried(guest):
    """Without chips in the hypervisor, an injected interrupt is kept in the bitmap."""
    made = guest(HALT).vcpu
    for vector in (0x21, 0x80, 0xFF):
        made.put(attrs.evolve(made.get(Sregs), interrupt_bitmap=1 << vector))
        assert made.get(Sregs).interrupt_bitmap == 1 << vector
        made.put(VcpuEvents())


def test_fpu_registers_lie_in_the_xsave_area_as_fxsave_has_them(vcpu):
    """SDM Vol. 1, table 10-2."""
    st = tuple(bytes([0x10 + i] * 10) + bytes(6) for i in range(8))
    xmm = tuple(bytes([0xA0 + i] * 16) for i in range(16))
    wanted = Fpu(
        fcw=0x27F,
        fsw=0x3800,
        ftw=0xFF,
        last_opcode=0x123,
        last_ip=0x11223344,
        last_dp=0x55667788,
        st=st,
        xmm=xmm,
    )
    vcpu.put(wanted)
    assert vcpu.get(Fpu) == wanted
    xsave = vcpu.get(Xsave)
    assert struct.unpack_from("<HHBxHQQ", xsave.area) == (0x27F, 0x3800, 0xFF, 0x123, 0x11223344, 0x55667788)
    assert (xsave.area[32:160], xsave.area[160:416]) == (b"".join(st), b"".join(xmm))


def test_fpu_registers_reach_a_guest_that_has_not_used_them_yet(guest, kvm):
    """KVM_SET_FPU would be lost here."""
    code = bytes([0x26, 0xD9, 0x3E, 0x00, 0x30,              # fnstcw es:[0x3000]
                  0x26, 0xF3, 0x0F, 0x7F, 0x06, 0x10, 0x30,  # movdqu es:[0x3010], xmm0
                  0xF4])  # hlt  # fmt: skip
    made = guest(code)
    made.vcpu.put(kvm.facts.supported_state(Cpuid))
    sregs = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(sregs, cr4=sregs.cr4.replace(osfxsr=True)))
    made.vcpu.put(Fpu(fcw=0x27F, xmm=(bytes(range(16)), *[bytes(16)] * 15)))
    assert made.run() == Halted()
    assert made.memory.read(0x3000, 2) == b"\x7f\x02"
    assert made.memory.read(0x3010, 16) == bytes(range(16))


def test_putting_the_fpu_leaves_mxcsr_alone(vcpu):
    area = bytearray(vcpu.get(Xsave).area)
    struct.pack_into("<I", area, 24, 0x1FA0)
    struct.pack_into("<Q", area, 512, 3)
    vcpu.put(Xsave(bytes(area)))
    vcpu.put(Fpu(fcw=0x27F))
    assert (vcpu.get(Xsave).fcw, vcpu.get(Xsave).mxcsr) == (0x27F, 0x1FA0)


def test_mxcsr_is_carried_by_xsave(vcpu):
    area = bytearray(vcpu.get(Xsave).area)
    struct.pack_into("<I", area, 24, 0x1FA0)
    struct.pack_into("<Q", area, 512, 3)
    vcpu.put(Xsave(bytes(area)))
    assert vcpu.get(Xsave).mxcsr == 0x1FA0


def test_an_xsave_area_that_is_too_long_is_refused_and_a_short_one_filled_up(vcpu):
    area = vcpu.get(Xsave).area
    with pytest.raises(HypervisorError, match=r"KVM_SET_XSAVE \(vCPU 0: an area of 5096 bytes; this host has 4096\)"):
        vcpu.put(Xsave(bytes(5096))) if len(area) == 4096 else pytest.fail("adapt the sizes")
    vcpu.put(Xsave(area[:1024]))
    assert vcpu.get(Xsave).area == area


def test_xcr0(vcpu):
    vcpu.put(Xcrs(xcr0=3))
    assert vcpu.get(Xcrs) == Xcrs(xcr0=3)


def test_debug_registers(vcpu):
    wanted = DebugRegs(db=(0x1000, 0x2000, 0x3000, 0xFFFF800012345678), dr6=0xFFFF4FF1, dr7=0x403)
    vcpu.put(wanted)
    assert vcpu.get(DebugRegs) == wanted


@pytest.mark.parametrize("activity", [Activity.RUNNABLE, Activity.HALTED, Activity.UNINITIALIZED])
def test_multiprocessing_states(vcpu, activity):
    vcpu.put(MpState(activity))
    assert vcpu.get(MpState) == MpState(activity)


def test_local_apic(vcpu):
    wanted = attrs.evolve(
        vcpu.get(Lapic),
        lint0=LocalVector(delivery_mode=DeliveryMode.EXTINT),
        lint1=LocalVector(delivery_mode=DeliveryMode.NMI),
        spurious_vector=0x1FF,
        interrupt_request=1 << 0x41 | 1 << 0xF0,
        logical_destination=0x42000000,
    )
    vcpu.put(wanted)
    assert vcpu.get(Lapic) == wanted


def test_the_boot_processors_local_apic_at_reset(vcpu):
    assert vcpu.get(Lapic).lint0 == LocalVector(delivery_mode=DeliveryMode.EXTINT)


def test_msrs(vcpu):
    wanted = {STAR: 0x0023001000000000, LSTAR: 0xFFFFFFFF81000000}
    vcpu.put(Msrs.of(wanted))
    found = vcpu.get(Msrs)
    assert {index: found[index] for index in wanted} == wanted


def test_the_facts_have_every_msr_that_a_vcpu_has(kvm, vcpu):
    assert {each.index for each in kvm.facts.supported_state(Msrs)} == {each.index for each in vcpu.get(Msrs)}
    assert {TSC, STAR, LSTAR, EFER} - {EFER} <= {each.index for each in vcpu.get(Msrs)}


def test_a_refused_msr_is_named_and_those_before_it_are_set(vcpu):
    with pytest.raises(HypervisorError, match=r"KVM_SET_MSRS \(vCPU 0, MSR 0x12345=0x7 refused.*EINVAL") as caught:
        vcpu.put(Msrs((MsrEntry(STAR, 0x99), MsrEntry(NO_SUCH_MSR, 7), MsrEntry(LSTAR, 0x77))))
    assert caught.value.operation == "KVM_SET_MSRS"
    found = vcpu.get(Msrs)
    assert (found[STAR], found[LSTAR]) == (0x99, 0)


def test_msrs_that_the_vcpu_lacks_are_left_out_however_many_there_are(vcpu):
    known = vcpu.get(Msrs)
    some = [each.index for each in known]
    vcpu._fd.msr_indices = (*range(0x5000, 0x5010), *some[:5], *range(0x6000, 0x6000 + rounds(768)), *some[5:], 0x7000)
    assert [each.index for each in vcpu.get(Msrs)] == some


def test_pending_and_injected_events_are_told_apart(vcpu):
    """Both bits of the shadow, since AMD has one for the two."""
    wanted = VcpuEvents(
        exception_pending=True, exception_vector=13, exception_has_error_code=True, exception_error_code=0x18,
        nmi_pending=True, nmi_masked=True, interrupt_shadow=3,
    )  # fmt: skip
    vcpu.put(wanted)
    assert vcpu.get(VcpuEvents) == wanted
    injected = VcpuEvents(exception_injected=True, exception_vector=6, interrupt_injected=True, interrupt_vector=0x30)
    vcpu.put(injected)
    assert vcpu.get(VcpuEvents) == injected


def test_a_pending_triple_fault_is_carried(vcpu):
    vcpu.put(VcpuEvents(triple_fault_pending=True))
    assert vcpu.get(VcpuEvents) == VcpuEvents(triple_fault_pending=True)


def test_a_sipi_vector_is_taken(guest):
    made = guest(HALT, irqchip=True, vcpus=2)
    second = made.vcpus[1]
    second.put(MpState(Activity.SIPI_RECEIVED))
    second.put(VcpuEvents(sipi_vector=3))
    assert second.get(VcpuEvents).sipi_vector is None
    made.memory.write(0x3000, OUT_THEN_SPIN)
    made.ports.then = second.kick
    assert second.run(made.bus) == Kicked()
    assert made.ports.writes == [(0, 1, 0)]


def test_events_that_this_kvm_would_ignore_are_unsupported(vcpu):
    vcpu._fd.event_flags = 0
    with pytest.raises(Unsupported, match="cannot be given exception_pending"):
        vcpu.put(VcpuEvents(exception_pending=True))
    with pytest.raises(Unsupported, match="cannot be given triple_fault_pending"):
        vcpu.put(VcpuEvents(triple_fault_pending=True))


def test_putting_registers_drops_a_pending_exception(vcpu):
    """Why VcpuEvents come last: KVM's rule, not ours."""
    vcpu.put(VcpuEvents(exception_pending=True, exception_vector=6))
    vcpu.put(vcpu.get(Regs))
    assert not vcpu.get(VcpuEvents).exception_pending


def test_cpuid_reaches_the_guest(guest, kvm):
    made = guest(
        bytes([0x0F, 0xA2, 0x66, 0x89, 0xD8, 0x66, 0xE7, PORT, 0xF4])
    )  # cpuid; mov eax, ebx; out PORT, eax; hlt
    made.vcpu.put(kvm.facts.supported_state(Cpuid).replace(CpuidEntry(0x40000000, eax=0x40000001, ebx=0x12345678)))
    assert made.run(rax=0x40000000) == Halted()
    assert made.ports.values == [0x12345678]


def test_subleaves_reach_the_guest(guest):
    made = guest(bytes([0x0F, 0xA2, 0x66, 0xE7, PORT, 0xF4]))  # cpuid; out PORT, eax; hlt
    entries = [
        CpuidEntry(0, eax=0xD),
        *(CpuidEntry(0xB, index, eax=100 + index, indexed=True) for index in range(3)),
    ]
    made.vcpu.put(Cpuid(tuple(entries)))
    assert made.run(rax=0xB, rcx=2) == Halted()
    assert made.ports.values == [102]


def test_a_cpuid_table_of_more_entries_than_expected_is_fetched_whole():
    def ask(table):
        if table.nent < 600:
            raise HypervisorError("KVM_GET_SUPPORTED_CPUID", 7)
        table.nent = 600
        for index, entry in enumerate(table.items[:600]):
            entry.function = index
        table.items[599].eax = 42

    found = fetch_cpuid(ask)
    assert (len(found), found[599].eax) == (600, 42)


def test_a_kernel_that_does_not_say_how_many_entries_it_filled_is_understood():
    """Linux 6.1's KVM_GET_CPUID2."""

    def ask(table):
        table.items[0].function, table.items[1].function = 0, 1

    assert [entry.function for entry in fetch_cpuid(ask)] == [0, 1]


def test_a_cpuid_table_without_end_is_an_error():
    def ask(table):
        raise HypervisorError("KVM_GET_SUPPORTED_CPUID", 7)

    with pytest.raises(HypervisorError, match="E2BIG"):
        fetch_cpuid(ask)


def test_too_long_a_cpuid_table_is_refused_by_kvm(vcpu):
    with pytest.raises(HypervisorError, match=r"KVM_SET_CPUID2 \(vCPU 0\): E2BIG"):
        vcpu.put(Cpuid(tuple(CpuidEntry(0x40000000 + i) for i in range(300))))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.put(Regs(rax=1 << 64)),
        lambda v: v.put(Regs(rip=-1)),
        lambda v: v.put(attrs.evolve(v.get(Sregs), cr3=1 << 64)),
        lambda v: v.put(attrs.evolve(v.get(Sregs), interrupt_bitmap=1 << 256)),
        lambda v: v.put(attrs.evolve(v.get(Sregs), gdt=DescriptorTable(0, 0x10000))),
        lambda v: v.put(attrs.evolve(v.get(Sregs), tr=SegmentRegister(selector=0x10000))),
        lambda v: v.put(Fpu(st=(bytes(16),) * 7)),
        lambda v: v.put(Fpu(xmm=(bytes(15),) * 16)),
        lambda v: v.put(DebugRegs(db=(0, 0, 0, 1 << 64))),
        lambda v: v.put(Xcrs(xcr0=1 << 64)),
        lambda v: v.put(VcpuEvents(interrupt_vector=256)),
        lambda v: v.put(Lapic(task_priority=1 << 32)),
    ],
)
def test_values_that_do_not_fit_are_refused_and_not_cut_off(vcpu, change):
    with pytest.raises(HypervisorError, match="EINVAL"):
        change(vcpu)


def test_control_registers_that_contradict_each_other_are_refused_by_kvm(vcpu):
    """Long mode without PAE: SDM Vol. 3, 4.1.1."""
    sregs = vcpu.get(Sregs)
    with pytest.raises(HypervisorError, match=r"KVM_SET_SREGS \(vCPU 0\): EINVAL, Invalid argument"):
        vcpu.put(attrs.evolve(sregs, cr0=sregs.cr0.replace(pe=True, pg=True), efer=0x500))


def test_the_interrupt_chips(kvm):
    with kvm.create_vm() as vm:
        vm.put(Irqchip())
        chips = vm.get(Irqchip)
        assert chips.ioapic.redirection == (1 << 16,) * 24
        changed = attrs.evolve(
            chips,
            pic_master=attrs.evolve(chips.pic_master, imr=0xEF, irq_base=0x20),
            pic_slave=attrs.evolve(chips.pic_slave, imr=0xFE, irq_base=0x28, elcr=2),
            ioapic=attrs.evolve(chips.ioapic, id=3, redirection=(*range(0x30, 0x46), 1 << 16, 7 << 56 | 0x50)),
        )
        vm.put(changed)
        assert vm.get(Irqchip) == changed
        vm.put(Irqchip(pic_slave=chips.pic_slave))
        assert vm.get(Irqchip) == attrs.evolve(changed, pic_slave=chips.pic_slave)


def test_the_pit(kvm):
    with kvm.create_vm() as vm:
        vm.put(Irqchip())
        vm.put(Pit())
        pit = vm.get(Pit)
        second = attrs.evolve(pit.channels[2], mode=3, count=0x1234, gate=1)
        vm.put(attrs.evolve(pit, channels=(*pit.channels[:2], second)))
        found = vm.get(Pit).channels[2]
        assert attrs.evolve(found, count_load_time=0) == attrs.evolve(second, count_load_time=0)


def test_the_clock_goes_on_from_what_was_put(kvm):
    with kvm.create_vm() as vm:
        hour = 3600 * 10**9
        vm.put(Clock(hour))
        assert hour <= vm.get(Clock).nanoseconds < hour + 30 * 10**9
        vm.put(vm.get(Clock))


def test_chips_that_were_not_put_cannot_be_read(kvm):
    with kvm.create_vm() as vm:
        for kind in (Irqchip, Pit):
            with pytest.raises(HypervisorError, match="ENXIO"):
                vm.get(kind)


def test_a_local_apic_needs_the_chips(guest):
    with pytest.raises(HypervisorError, match=r"KVM_GET_LAPIC \(vCPU 0\): EINVAL"):
        guest(HALT).vcpu.get(Lapic)


def test_a_whole_vcpu_goes_on_in_another_vm_where_it_was(guest, kvm):
    """Count up in memory-mapped I/O, stop in the middle, and go on elsewhere."""
    code = bytes([0x66, 0x40,                # again: inc eax
                  0x66, 0xA3, 0, 0,          # mov [0], eax
                  0xEB, 0xF8])  # jmp again  # fmt: skip
    first, second = guest(code, irqchip=True), guest(code, irqchip=True)
    first.mmio.then = lambda: first.vcpu.kick() if len(first.mmio.writes) == 5 else None
    first.vcpu.put(kvm.facts.supported_state(Cpuid))
    assert first.run() == Kicked()
    for kind in VCPU_STATES:
        second.vcpu.put(first.vcpu.get(kind))
    second.mmio.then = second.vcpu.kick
    assert second.vcpu.run(second.bus) == Kicked()
    assert first.mmio.values + second.mmio.values == [1, 2, 3, 4, 5, 6]


def test_snapshot_is_claimed_where_every_state_can_be_read(kvm):
    assert kvm.facts.has(Capability.SNAPSHOT)
