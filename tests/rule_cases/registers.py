"""What a vCPU refuses of general and debug registers, and numbers that do not fit their fields."""

import attrs

from anyvisor.x86_64.control import Efer
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.modes import enter
from anyvisor.x86_64.state import (
    DebugRegs,
    DescriptorTable,
    Fpu,
    MpState,
    Regs,
    SegmentRegister,
    Sregs,
    VcpuEvents,
    Xcrs,
)
from rule_cases.case import accepted, case, refused

PAGE_TABLE = 0x9000
LONG_MODE = Efer(lme=True, lma=True)
BYTES_OF_8 = 1 << 64


def put(bench, mode, **fields):
    """Put Sregs of that mode with some fields changed; what is read back of those fields."""
    vcpu = bench.vcpu()
    vcpu.put(attrs.evolve(enter(mode, vcpu.get(Sregs), page_table=PAGE_TABLE), **fields))
    found = vcpu.get(Sregs)
    return [getattr(found, name) for name in fields]


# -- general registers -------------------------------------------------------------------------------------------------


@accepted
def flags_always_have_bit_1(bench):
    vcpu = bench.vcpu()
    vcpu.put(Regs(rflags=0))
    return vcpu.get(Regs)


@accepted
def reset_registers(bench):
    vcpu = bench.vcpu(table=False)
    sregs = vcpu.get(Sregs)
    segments = [
        attrs.evolve(each, type=0) for each in (sregs.cs, sregs.ds, sregs.tr, sregs.ldt)
    ]  # types are the maker's
    return [
        *segments, sregs.gdt, sregs.idt, sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer, sregs.apic_base,
        vcpu.get(Regs).rip, vcpu.get(Regs).rflags, vcpu.get(MpState), vcpu.get(DebugRegs), vcpu.get(Xcrs),
    ]  # fmt: skip


@accepted
def reset_registers_of_an_application_processor(bench):
    vcpu = bench.vm(irqchip=True).create_vcpu(1)
    return [vcpu.get(Sregs).apic_base, vcpu.get(MpState), vcpu.get(Regs).rip, vcpu.get(Lapic).id]


@accepted
def reset_activity_of_an_application_processor_without_chips(bench):
    return bench.vm().create_vcpu(1).get(MpState)


@accepted
def reset_events(bench):
    return bench.vcpu().get(VcpuEvents)


@accepted
def registers_drop_a_pending_exception(bench):
    vcpu = bench.vcpu()
    vcpu.put(VcpuEvents(exception_pending=True, exception_vector=6))
    vcpu.put(Regs())
    return vcpu.get(VcpuEvents).exception_pending


@accepted
def registers_keep_an_injected_exception(bench):
    vcpu = bench.vcpu()
    vcpu.put(VcpuEvents(exception_injected=True, exception_vector=6))
    vcpu.put(Regs())
    return vcpu.get(VcpuEvents).exception_injected


# -- debug registers ---------------------------------------------------------------------------------------------------


@refused("debug-registers-have-32-bits")
def dr6_beyond_32_bits(bench):
    bench.vcpu().put(DebugRegs(dr6=1 << 32))


@refused("debug-registers-have-32-bits")
def dr7_beyond_32_bits(bench):
    bench.vcpu().put(DebugRegs(dr7=1 << 32 | 0x400))


@accepted
def debug_registers_of_any_32_bits(bench):
    vcpu = bench.vcpu()
    vcpu.put(DebugRegs(db=(1, 2, 3, (1 << 64) - 1), dr6=0xFFFFFFFF, dr7=0xFFFF07FF))
    return vcpu.get(DebugRegs)


# -- widths ------------------------------------------------------------------------------------------------------------


TOO_WIDE = {
    "RAX": lambda v: Regs(rax=BYTES_OF_8),
    "RIP": lambda v: Regs(rip=-1),
    "CR3": lambda v: attrs.evolve(v.get(Sregs), cr3=BYTES_OF_8),
    "interrupt bitmap": lambda v: attrs.evolve(v.get(Sregs), interrupt_bitmap=1 << 256),
    "GDT limit": lambda v: attrs.evolve(v.get(Sregs), gdt=DescriptorTable(0, 0x10000)),
    "selector": lambda v: attrs.evolve(v.get(Sregs), tr=SegmentRegister(selector=0x10000)),
    "segment type": lambda v: attrs.evolve(v.get(Sregs), tr=SegmentRegister(type=256)),
    "ST registers": lambda v: Fpu(st=(bytes(16),) * 7),
    "XMM register": lambda v: Fpu(xmm=(bytes(15),) * 16),
    "FCW": lambda v: Fpu(fcw=0x10000),
    "DB3": lambda v: DebugRegs(db=(0, 0, 0, BYTES_OF_8)),
    "XCR0": lambda v: Xcrs(xcr0=BYTES_OF_8),
    "interrupt vector": lambda v: VcpuEvents(interrupt_vector=256),
    "task priority": lambda v: Lapic(task_priority=1 << 32),
    "SIPI vector": lambda v: VcpuEvents(sipi_vector=1 << 32),
}
for _name, _make in TOO_WIDE.items():
    case("fields-have-widths", f"{_name} too wide")(lambda bench, make=_make: put_of(bench.vcpu(), make))


def put_of(vcpu, make):
    vcpu.put(make(vcpu))
