"""The state of an x86_64 processor after RESET, for backends that have to make it up themselves.

SDM Vol. 3, table 10-1 (table 9-1 in editions before 2023). The first instruction is at 0xFFFFFFF0: CS has a base that
no selector of real mode gives, until the first far jump.
"""

from __future__ import annotations

from anyvisor.states import VcpuState
from anyvisor.x86_64.control import ApicBase, Cr0
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.state import (
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

RESET_VECTOR = 0xFFF0
APIC_PAGE = 0xFEE00
XSAVE_BYTES = 4096
FCW, MXCSR = 0x37F, 0x1F80
"""After RESET and FNINIT, as a hypervisor hands its vCPUs over."""


def reset_states(index: int = 0) -> tuple[VcpuState, ...]:
    """Registers of vCPU `index` after RESET: number 0 is the boot processor, and the others wait for INIT and SIPI.

    The CPUID table and the MSRs are not among them: which there are is the processor's own.
    """
    activity = Activity.UNINITIALIZED if index else Activity.RUNNABLE
    return (
        MpState(activity),
        Regs(rip=RESET_VECTOR),
        _sregs(boot_processor=index == 0),
        Fpu(fcw=FCW),
        Xsave(FCW.to_bytes(24, "little") + MXCSR.to_bytes(XSAVE_BYTES - 24, "little")),
        Xcrs(),
        DebugRegs(),
        Lapic(id=(index & 0xFF) << 24),
        VcpuEvents(),
    )


def _sregs(*, boot_processor: bool) -> Sregs:
    data = SegmentRegister(limit=0xFFFF, type=3, s=True, present=True)
    table = DescriptorTable(limit=0xFFFF)
    return Sregs(
        cs=SegmentRegister(base=0xFFFF0000, selector=0xF000, limit=0xFFFF, type=0xB, s=True, present=True),
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        tr=SegmentRegister(limit=0xFFFF, type=0xB, present=True),
        ldt=SegmentRegister(limit=0xFFFF, type=2, present=True),
        gdt=table,
        idt=table,
        cr0=Cr0(et=True, nw=True, cd=True),
        apic_base=ApicBase(enabled=True, bsp=boot_processor, page=APIC_PAGE),
    )
