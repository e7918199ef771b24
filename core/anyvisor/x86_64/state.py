"""The x86_64 state types of a vCPU, in the words of the Intel SDM and AMD APM; those of a VM are in `chips`.

Some facts about the order. States depend on each other, so a vCPU is restored in the order of `VCPU_STATES`:
CPUID comes first, because which control-register bits and MSRs exist depends on it; `MpState` before the rest,
because asking for it may change the local APIC; `Sregs` before `Lapic`, because the APIC base lives in Sregs;
`Lapic` before `Msrs`, because the TSC deadline MSR needs an APIC in deadline mode; `VcpuEvents` last, because
setting `Regs` drops a pending exception.

MXCSR is not part of `Fpu`: the classic interface (KVM_GET_FPU) does not carry it. It lives in `Xsave`.
"""

from __future__ import annotations

import enum

import attrs

from anyvisor.codec import named
from anyvisor.states import VcpuState
from anyvisor.x86_64.control import ApicBase, Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.msrs import Msrs


@named("x86_64.Regs")
@attrs.frozen
class Regs(VcpuState):
    """The general-purpose registers, the instruction pointer and the flags."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: Rflags = attrs.field(default=Rflags(2), converter=Rflags)


@attrs.frozen
class SegmentRegister:
    """A segment register with its hidden part, SDM Vol. 3, 3.4.3; `limit` is in bytes, already scaled by G."""

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    s: bool = False
    dpl: int = 0
    present: bool = False
    avl: bool = False
    l: bool = False  # noqa: E741 - the manual's letter
    db: bool = False
    g: bool = False
    unusable: bool = False


@attrs.frozen
class DescriptorTable:
    """GDTR or IDTR: where a descriptor table lies; `limit` is its size in bytes less one."""

    base: int = 0
    limit: int = 0


@named("x86_64.Sregs")
@attrs.frozen
class Sregs(VcpuState):
    """Segment, table and control registers, EFER and the APIC base."""

    cs: SegmentRegister
    ds: SegmentRegister
    es: SegmentRegister
    fs: SegmentRegister
    gs: SegmentRegister
    ss: SegmentRegister
    tr: SegmentRegister
    ldt: SegmentRegister
    gdt: DescriptorTable
    idt: DescriptorTable
    cr0: Cr0 = attrs.field(converter=Cr0)
    cr2: int = 0
    cr3: int = 0
    cr4: Cr4 = attrs.field(default=Cr4(0), converter=Cr4)
    cr8: int = 0
    efer: Efer = attrs.field(default=Efer(0), converter=Efer)
    apic_base: ApicBase = attrs.field(default=ApicBase(0xFEE00800), converter=ApicBase)
    interrupt_bitmap: int = 0
    """Vectors injected but not yet taken, a 256-bit number; bit n is vector n."""


@named("x86_64.Fpu")
@attrs.frozen
class Fpu(VcpuState):
    """The x87 and SSE registers of FXSAVE, without MXCSR (see the module's facts). SDM Vol. 1, 10.5.1."""

    fcw: int = 0x37F
    fsw: int = 0
    ftw: int = 0
    """The abridged tag word: one bit a register, set when it is in use."""
    last_opcode: int = 0
    last_ip: int = 0
    last_dp: int = 0
    st: tuple[bytes, ...] = (bytes(16),) * 8
    """ST0..ST7, 16 bytes each (80 bits used)."""
    xmm: tuple[bytes, ...] = (bytes(16),) * 16


@named("x86_64.Xsave")
@attrs.frozen
class Xsave(VcpuState):
    """The XSAVE area in the processor's standard (non-compacted) format. SDM Vol. 1, 13.4.

    `area` is at least 4096 bytes: the 512-byte legacy region, the 64-byte header, then the components.
    """

    area: bytes = attrs.field(repr=lambda area: f"<{len(area)} bytes>")

    @property
    def fcw(self) -> int:
        """The x87 control word (offset 0)."""
        return int.from_bytes(self.area[0:2], "little")

    @property
    def mxcsr(self) -> int:
        """The SSE control and status register (offset 24)."""
        return int.from_bytes(self.area[24:28], "little")

    @property
    def xstate_bv(self) -> int:
        """Which components the area holds (offset 512)."""
        return int.from_bytes(self.area[512:520], "little")


@named("x86_64.Xcrs")
@attrs.frozen
class Xcrs(VcpuState):
    """The extended control registers; XCR0 says which XSAVE components the guest has switched on. SDM Vol. 3, 2.6."""

    xcr0: int = 1


@named("x86_64.DebugRegs")
@attrs.frozen
class DebugRegs(VcpuState):
    """The debug registers. SDM Vol. 3, 18.2."""

    db: tuple[int, int, int, int] = (0, 0, 0, 0)
    dr6: int = 0xFFFF0FF0
    dr7: int = 0x400


class Activity(enum.IntEnum):
    """What a vCPU is doing: running, halted, or waiting to be woken by another. SDM Vol. 3, 9.4."""

    RUNNABLE = 0
    UNINITIALIZED = 1
    INIT_RECEIVED = 2
    HALTED = 3
    SIPI_RECEIVED = 4


@named("x86_64.MpState")
@attrs.frozen
class MpState(VcpuState):
    """A vCPU's multiprocessing state: an application processor starts UNINITIALIZED and waits for INIT and SIPI."""

    activity: Activity = Activity.RUNNABLE


@named("x86_64.VcpuEvents")
@attrs.frozen
class VcpuEvents(VcpuState):
    """Exceptions, interrupts, NMIs and SMIs that are on their way into a vCPU. SDM Vol. 3, 6.15 and 25.8.3."""

    exception_injected: bool = False
    exception_pending: bool = False
    exception_vector: int = 0
    exception_has_error_code: bool = False
    exception_error_code: int = 0
    exception_has_payload: bool = False
    exception_payload: int = 0
    interrupt_injected: bool = False
    interrupt_vector: int = 0
    interrupt_soft: bool = False
    interrupt_shadow: int = 0
    """Bit 0: blocked by MOV SS; bit 1: blocked by STI."""
    nmi_injected: bool = False
    nmi_pending: bool = False
    nmi_masked: bool = False
    sipi_vector: int | None = None
    smm: bool = False
    smi_pending: bool = False
    smm_inside_nmi: bool = False
    smi_latched_init: bool = False
    triple_fault_pending: bool = False


VCPU_STATES: tuple[type[VcpuState], ...] = (
    Cpuid,
    MpState,
    Regs,
    Sregs,
    Xsave,
    Xcrs,
    DebugRegs,
    Lapic,
    Msrs,
    VcpuEvents,
)
"""The states that make up a whole vCPU, in the order in which they are restored. `Fpu` is part of `Xsave`."""
