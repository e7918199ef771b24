"""The registers at a kernel's first instruction, by boot protocol.

Some facts about the 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst, "64-bit boot protocol"). The kernel is
entered in long mode with paging on and an identity map; CS is selector 0x10 and DS, ES, SS are 0x18, flat; interrupts
are off; RSI holds the address of the zero page. TR must be loaded with a busy TSS, or VM entry fails (SDM Vol. 3,
27.3.1.2). XSAVE and x87 start as FNINIT leaves them: FCW 0x37F, MXCSR 0x1F80.

The protocols of 32 bits have the same selectors in protected mode without paging. Linux's own ("32-bit boot protocol")
wants the zero page's address in ESI, and 0 in EBP, EDI and EBX. PVH wants the start info's address in EBX, and all of
CR4 and all that can be 0 in CR0 at 0, and a 32-bit TSS in TR. Multiboot (GNU Multiboot Specification 0.6.96, 3.2) wants
a magic number in EAX and the information structure's address in EBX, and leaves the stack to the kernel.
"""

from __future__ import annotations

from anyvisor.plan import Kernel
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.control import Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.gdt import Gdt
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.state import DescriptorTable, Fpu, Regs, SegmentRegister, Sregs

BOOT_CS, BOOT_DS, BOOT_TR = 0x10, 0x18, 0x20
DATA_SEGMENTS = ("ds", "es", "fs", "gs", "ss")
MULTIBOOT_MAGIC = 0x2BADB002
IDT_BYTES = 8
"""One empty gate: there is no interrupt handler yet, so any exception is a triple fault."""


def linux64_registers(
    kernel: Kernel, layout: Layout, gdt: Gdt, root: int, *, boot_processor: bool
) -> tuple[VcpuState | Change, ...]:
    """The states of a vCPU under the 64-bit Linux boot protocol; none for one that waits for INIT and SIPI.

    `root` is the guest-physical address of the top page table (CR3).
    """
    if not boot_processor:
        return ()
    regs = Regs(
        rip=kernel.entry,
        rsi=layout.zero_page,
        rsp=layout.stack_top,
        rbp=layout.stack_top,
        rflags=Rflags(fixed=True),
    )
    return (regs, long_mode(layout, gdt, root), Fpu())


def linux32_registers(
    kernel: Kernel, layout: Layout, gdt: Gdt, *, boot_processor: bool
) -> tuple[VcpuState | Change, ...]:
    """The states of a vCPU under the 32-bit Linux boot protocol; none for one that waits for INIT and SIPI."""
    if not boot_processor:
        return ()
    regs = Regs(rip=kernel.entry, rsi=layout.zero_page, rsp=layout.stack_top, rflags=Rflags(fixed=True))
    return (regs, protected_mode(layout, gdt), Fpu())


def pvh_registers(kernel: Kernel, layout: Layout, gdt: Gdt, *, boot_processor: bool) -> tuple[VcpuState | Change, ...]:
    """The states of a vCPU that enters a kernel by PVH; none for one that waits for INIT and SIPI."""
    if not boot_processor:
        return ()
    regs = Regs(rip=kernel.entry, rbx=layout.boot_info.start, rflags=Rflags(fixed=True))
    return (regs, protected_mode(layout, gdt), Fpu())


def multiboot_registers(
    kernel: Kernel, layout: Layout, gdt: Gdt, *, boot_processor: bool
) -> tuple[VcpuState | Change, ...]:
    """The states of a vCPU that enters a kernel by multiboot; none for one that waits for INIT and SIPI."""
    if not boot_processor:
        return ()
    regs = Regs(rip=kernel.entry, rax=MULTIBOOT_MAGIC, rbx=layout.boot_info.start, rflags=Rflags(fixed=True))
    return (regs, protected_mode(layout, gdt), Fpu())


def protected_mode(layout: Layout, gdt: Gdt) -> Change:
    """Segments from `gdt` and the control registers of 32-bit protected mode without paging."""
    return Change(Sregs, **_segments(layout, gdt), cr0=Cr0(pe=True, et=True), cr3=0, cr4=Cr4(0), efer=Efer(0))


def long_mode(layout: Layout, gdt: Gdt, root: int) -> Change:
    """Segments from `gdt` and the control registers of 64-bit mode with paging; the APIC base stays as it is."""
    return Change(
        Sregs,
        **_segments(layout, gdt),
        cr0=Cr0(pe=True, et=True, pg=True),
        cr3=root,
        cr4=Cr4(pae=True),
        efer=Efer(lme=True, lma=True),
    )


def _segments(layout: Layout, gdt: Gdt) -> dict[str, SegmentRegister | DescriptorTable]:
    """The segment registers, loaded from `gdt`, and the registers of both descriptor tables."""
    return {
        "cs": gdt.register(BOOT_CS),
        **dict.fromkeys(DATA_SEGMENTS, gdt.register(BOOT_DS)),
        "tr": gdt.register(BOOT_TR),
        "gdt": DescriptorTable(layout.gdt, gdt.limit_bytes),
        "idt": DescriptorTable(layout.idt, IDT_BYTES - 1),
    }
