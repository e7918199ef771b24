"""The x86_64 state types on the engine: what `Vcpu.get` and `Vcpu.put` do for each.

Registers that have a number in Unicorn's interface go by it. Segments, tables and the privilege level are written into
the saved state, since by number a segment can only be loaded as the guest would load it. Control registers go by number
all the same: the engine then changes its mode as the processor does, so they are written in the order in which a
processor would allow them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import attrs

from anyvisor.errors import HypervisorError
from anyvisor.states import VcpuState
from anyvisor.x86_64.control import Efer
from anyvisor.x86_64.descriptors import SystemType
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import MsrEntry, Msrs
from anyvisor.x86_64.state import DebugRegs, DescriptorTable, Fpu, Regs, SegmentRegister, Sregs
from anyvisor_unicorn import layout
from anyvisor_unicorn.engine import registers
from anyvisor_unicorn.processor import Processor

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{i}" for i in range(8, 16)), "rip", "rflags")
GENERAL_NUMBERS = dict(zip(GENERAL, registers(GENERAL), strict=True))
CR0, CR3, CR4 = registers(("cr0", "cr3", "cr4"))
SEGMENTS = {
    "es": layout.ES, "cs": layout.CS, "ss": layout.SS, "ds": layout.DS, "fs": layout.FS, "gs": layout.GS,
    "ldt": layout.LDT, "tr": layout.TR,
}  # fmt: skip
ACCESSED = 1
LOADED_TASKS: dict[int, int] = {SystemType.TSS16: SystemType.TSS16_BUSY, SystemType.TSS: SystemType.TSS_BUSY}
MODE_BITS = layout.H_CPL | layout.H_CS32 | layout.H_SS32 | layout.H_ADDSEG | layout.H_CS64 | layout.H_INHIBIT_IRQ
CR0_ET = 1 << 4
FPU_NUMBERS = dict(zip(("fcw", "fsw", "ftw"), registers(("fpcw", "fpsw", "fptag")), strict=True))
POINTER_NUMBERS = dict(zip(("last_opcode", "last_ip", "last_dp"), registers(("fop", "fip", "fdp")), strict=True))
X87, XMM = registers(f"fp{i}" for i in range(8)), registers(f"xmm{i}" for i in range(16))
X87_BYTES, XMM_BYTES = 10, 16
DEBUG = registers(("dr0", "dr1", "dr2", "dr3", "dr6", "dr7"))
KEPT_MSRS = (
    Msr.SYSENTER_CS, Msr.SYSENTER_ESP, Msr.SYSENTER_EIP, Msr.STAR, Msr.LSTAR, Msr.CSTAR, Msr.FMASK,
    Msr.KERNEL_GS_BASE, Msr.TSC_AUX, Msr.PAT, Msr.MISC_ENABLE, Msr.MTRR_DEF_TYPE,
)  # fmt: skip
"""The MSRs that the engine keeps; others read as zero there and are swallowed."""


def get_regs(cpu: Processor) -> Regs:
    """The general-purpose registers."""
    return Regs(**{name: cpu.engine.read(number) for name, number in GENERAL_NUMBERS.items()})


def put_regs(cpu: Processor, regs: Regs) -> None:
    """Set the general-purpose registers; HypervisorError (EINVAL) for a number that none of them holds."""
    values = {name: int(getattr(regs, name)) for name in GENERAL_NUMBERS}
    if wrong := {name: value for name, value in values.items() if not 0 <= value < 1 << 64}:
        raise HypervisorError("uc_reg_write", errno.EINVAL, f"registers have 64 bits: {wrong}")
    for name, number in GENERAL_NUMBERS.items():
        cpu.engine.write(number, values[name])


def get_sregs(cpu: Processor) -> Sregs:
    """Segments, tables and control registers."""
    cpu.engine.save()
    segments: dict[str, Any] = {name: _segment(cpu, number) for name, number in SEGMENTS.items()}
    segments |= {name: _loaded(cpu, name, segments[name]) for name in ("cs", "tr")}
    return Sregs(
        **segments,
        gdt=DescriptorTable(cpu.base(layout.GDT), cpu.limit(layout.GDT)),
        idt=DescriptorTable(cpu.base(layout.IDT), cpu.limit(layout.IDT)),
        cr0=cpu.u64[layout.CR0],
        cr2=cpu.u64[layout.CR2],
        cr3=cpu.u64[layout.CR3],
        cr4=cpu.u64[layout.CR4],
        efer=cpu.u64[layout.EFER],
        apic_base=cpu.apic_base,
    )


def put_sregs(cpu: Processor, sregs: Sregs) -> None:
    """Set segments, tables and control registers, and the mode that follows from them.

    HypervisorError (EINVAL) for a mode that no processor is in: the engine would take it, and be in another.
    """
    _check_mode(sregs)
    engine = cpu.engine
    engine.save()
    rip = cpu.u64[layout.RIP]  # loses its high half where long mode ends
    engine.write(CR0, CR0_ET)  # real mode: whatever mode it was in, from here every other can be entered
    _forget_long_mode(cpu)
    engine.write(CR4, int(sregs.cr4))
    engine.write_msr(Msr.EFER, int(sregs.efer.replace(lma=False)))
    engine.write(CR3, sregs.cr3)
    engine.write(CR0, int(sregs.cr0) | CR0_ET)
    engine.save()
    for name, number in SEGMENTS.items():
        segment: SegmentRegister = getattr(sregs, name)
        cpu.set_segment(number, segment.selector, segment.base, segment.limit, _flags(segment))
    cpu.put_flags = {name: cpu.flags(SEGMENTS[name]) for name in ("cs", "tr")}
    cpu.set_segment(layout.GDT, 0, sregs.gdt.base, sregs.gdt.limit, 0)
    cpu.set_segment(layout.IDT, 0, sregs.idt.base, sregs.idt.limit, 0)
    cpu.u64[layout.RIP] = rip
    cpu.u64[layout.CR2] = sregs.cr2
    cpu.u32[layout.HFLAGS] = cpu.u32[layout.HFLAGS] & ~MODE_BITS | _mode(cpu, sregs)
    cpu.u32[layout.OLD_EXCEPTION] = layout.NO_EXCEPTION
    engine.restore()
    cpu.apic_base = sregs.apic_base


def _check_mode(sregs: Sregs) -> None:
    """Long mode is paging with EFER.LME and CR4.PAE, and EFER.LMA says so. SDM Vol. 3, 11.8.5."""
    long = sregs.cr0.pg and sregs.efer.lme
    if sregs.efer.lma != long or (long and not sregs.cr4.pae) or (sregs.cr0.pg and not sregs.cr0.pe):
        raise HypervisorError("uc_reg_write", errno.EINVAL, f"no mode has {sregs.cr0}, {sregs.cr4} and {sregs.efer}")


def _forget_long_mode(cpu: Processor) -> None:
    """A new engine is in IA-32e mode without paging, which no write to CR0 ends."""
    cpu.engine.save()
    cpu.u64[layout.EFER] &= ~int(Efer(lma=True))
    cpu.u32[layout.HFLAGS] &= ~layout.H_LMA
    cpu.engine.restore()


def _mode(cpu: Processor, sregs: Sregs) -> int:
    """The bits of `hflags` that follow from the segments."""
    privilege = sregs.ss.dpl if sregs.cr0.pe else 0
    if cpu.u32[layout.HFLAGS] & layout.H_LMA and sregs.cs.l:
        return layout.H_CS64 | layout.H_CS32 | layout.H_SS32 | privilege
    bases = sregs.ds.base | sregs.es.base | sregs.ss.base
    cs32 = layout.H_CS32 if sregs.cs.db else 0
    ss32 = layout.H_SS32 if sregs.ss.db else 0
    adds = layout.H_ADDSEG if bases or not sregs.cs.db or not sregs.cr0.pe else 0
    return cs32 | ss32 | adds | privilege


def _segment(cpu: Processor, number: int) -> SegmentRegister:
    flags = cpu.flags(number)
    return SegmentRegister(
        base=cpu.base(number), limit=cpu.limit(number), selector=cpu.selector(number),
        type=flags >> 8 & 0xF, s=bool(flags >> 12 & 1), dpl=flags >> 13 & 3, present=bool(flags >> 15 & 1),
        avl=bool(flags >> 20 & 1), l=bool(flags >> 21 & 1), db=bool(flags >> 22 & 1), g=bool(flags >> 23 & 1),
        unusable=not flags >> 15 & 1,
    )  # fmt: skip


def _loaded(cpu: Processor, name: str, segment: SegmentRegister) -> SegmentRegister:
    """CS and TR as a processor holds what the guest has loaded: accessed, and busy.

    The engine's far jumps and LTR mark it in memory, and not in the register. What was put there stays what it is.
    """
    if cpu.flags(SEGMENTS[name]) == cpu.put_flags.get(name):
        return segment
    if segment.s:
        return attrs.evolve(segment, type=segment.type | ACCESSED)
    return attrs.evolve(segment, type=LOADED_TASKS.get(segment.type, segment.type))


def _flags(segment: SegmentRegister) -> int:
    """A segment's flags as the high half of a descriptor has them."""
    if segment.unusable:
        return 0
    low = segment.type << 8 | segment.s << 12 | segment.dpl << 13 | segment.present << 15
    return low | segment.avl << 20 | segment.l << 21 | segment.db << 22 | segment.g << 23


def get_fpu(cpu: Processor) -> Fpu:
    """The x87 and SSE registers."""
    engine = cpu.engine
    numbers = {name: engine.read(number) for name, number in (FPU_NUMBERS | POINTER_NUMBERS).items()}
    numbers["ftw"] = _abridged(numbers["ftw"] & 0xFFFF)
    st = tuple(engine.read_bytes(number, X87_BYTES).ljust(16, b"\0") for number in _from_top(numbers["fsw"]))
    return Fpu(**numbers, st=st, xmm=tuple(engine.read_bytes(number, XMM_BYTES) for number in XMM))


def put_fpu(cpu: Processor, fpu: Fpu) -> None:
    """Set the x87 and SSE registers."""
    engine = cpu.engine
    for name, number in FPU_NUMBERS.items():
        value = getattr(fpu, name)
        engine.write(number, _full(value) if name == "ftw" else value)
    for name, number in POINTER_NUMBERS.items():
        engine.write(number, getattr(fpu, name))
    for number, st in zip(_from_top(fpu.fsw), fpu.st, strict=True):
        engine.write_bytes(number, st[:X87_BYTES])
    for number, xmm in zip(XMM, fpu.xmm, strict=True):
        engine.write_bytes(number, xmm)


def _from_top(fsw: int) -> tuple[int, ...]:
    """The x87's registers as ST0..ST7: from the one on that the status word says is the top of the stack."""
    top = fsw >> 11 & 7
    return X87[top:] + X87[:top]


def _abridged(tags: int) -> int:
    """FXSAVE's tag byte, a bit for each register in use, from the x87's two bits: 3 is an empty one."""
    return sum(1 << i for i in range(8) if tags >> 2 * i & 3 != 3)


def _full(tags: int) -> int:
    """The x87's tag word from FXSAVE's byte."""
    return sum(3 << 2 * i for i in range(8) if not tags >> i & 1)


def get_debug(cpu: Processor) -> DebugRegs:
    """The debug registers."""
    *addresses, dr6, dr7 = (cpu.engine.read(number) for number in DEBUG)
    return DebugRegs(tuple(addresses), dr6, dr7)  # type: ignore[arg-type]


def put_debug(cpu: Processor, debug: DebugRegs) -> None:
    """Set the debug registers."""
    for number, value in zip(DEBUG, (*debug.db, debug.dr6, debug.dr7), strict=True):
        cpu.engine.write(number, value)


def get_msrs(cpu: Processor) -> Msrs:
    """The MSRs that the engine keeps."""
    return Msrs(tuple(MsrEntry(int(each), cpu.engine.read_msr(each)) for each in KEPT_MSRS))


def put_msrs(cpu: Processor, msrs: Msrs) -> None:
    """Set MSRs; what the engine does not keep is swallowed, as when the guest writes it."""
    for each in msrs:
        cpu.engine.write_msr(each.index, each.value)


Accessors = tuple[Callable[[Processor], Any], Callable[[Processor, Any], None]]

VCPU_STATES: dict[type[VcpuState], Accessors] = {
    Regs: (get_regs, put_regs),
    Sregs: (get_sregs, put_sregs),
    Fpu: (get_fpu, put_fpu),
    DebugRegs: (get_debug, put_debug),
    Msrs: (get_msrs, put_msrs),
}
"""In the order in which they are restored; CPUID is not the engine's but the vCPU's own."""
