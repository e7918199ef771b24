"""A flat binary: bytes for an address, and a mode to start them in. No header says anything about it, so the user does.

Some facts about a bare first instruction. Nobody hands such a program anything: no command line, no memory map, no
initrd. In real mode the processor finds it by CS:IP, and its 20 address bits end at 1 MiB. An entry below 64 KiB is
entered with CS 0, so that a boot sector at 0x7C00 finds itself at 0000:7C00 as a BIOS would have it; one above with
CS = entry / 16, so that IP is as small as can be. DS, ES and SS are 0 either way. In protected and long mode the
segments are flat, and long mode has an identity map of all RAM. Interrupts are off, and there is no handler for any:
an exception ends the machine, until the program has made some. SP is that of the layout, 0x8FF0, with a few KiB below
it that nothing else of the machine uses.
"""

from __future__ import annotations

import os

from anyvisor.config import MachineConfig, Raw, default_command_line
from anyvisor.errors import ConfigError, PlanError
from anyvisor.image_file import ImageFile
from anyvisor.memory import MIB
from anyvisor.plan import Blob, FileSlice, Kernel
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.control import Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.gdt import Gdt
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL, REAL_CODE, REAL_DATA
from anyvisor.x86_64.registers import DATA_SEGMENTS, long_mode, protected_mode
from anyvisor.x86_64.state import DescriptorTable, Fpu, Regs, SegmentRegister, Sregs

__all__ = ["Raw", "check_nothing_handed_over", "code_segment", "load_raw", "offset", "raw_registers", "real_mode"]

PROTOCOL = "raw"
ENTRY_LIMITS = {REAL: 1 * MIB, PROTECTED: 1 << 32, LONG: 1 << 52}
"""How far up the first instruction may be, by the mode that it runs in."""
SEGMENT_BYTES = 1 << 16
REAL_IDT = DescriptorTable(0, 0x3FF)
"""The interrupt vectors of real mode: 256 far pointers from address 0, all of them 0 until the program sets some."""


def check_nothing_handed_over(config: MachineConfig) -> None:
    """ConfigError when the configuration has something for the guest that a flat binary cannot be told of."""
    if config.initrd:
        raise ConfigError("initrd: a raw image is told of none; put it into the image, or use another protocol")
    if config.command_line not in {"", default_command_line(config.tables)}:
        raise ConfigError("command_line: a raw image is told of none; leave it out, or use another protocol")


def load_raw(path: os.PathLike[str] | str, raw: Raw) -> Kernel:
    """All bytes of a file, to lie at `raw.address` and be entered at `raw.entry`.

    ConfigError when the entry is not in the image, or where that mode cannot be; KernelImageError when the file cannot
    be read.
    """
    image = ImageFile.open(path)
    blob = Blob("raw image", raw.address, FileSlice(image.path, 0, image.size_bytes))
    if not blob.region.contains(raw.entry):
        raise ConfigError(f"raw: the entry {raw.entry:#x} is not in the image, {blob.region}; give an address in it")
    limit = ENTRY_LIMITS[raw.mode]
    if raw.entry >= limit:
        words = f"{raw.mode} mode reaches addresses below {limit:#x}, and the entry is {raw.entry:#x}"
        raise ConfigError(f"raw: {words}; choose a lower address, or another mode")
    return Kernel(PROTOCOL, raw.entry, (blob,), command_line_limit=0, initrd_limit=0, mode=raw.mode)


def raw_registers(
    kernel: Kernel, layout: Layout, gdt: Gdt | None, root: int, *, boot_processor: bool
) -> tuple[VcpuState | Change, ...]:
    """The states of a vCPU that enters a flat binary in `kernel.mode`; none for one that waits for INIT and SIPI.

    `gdt` is needed outside real mode; `root` is the guest-physical address of the top page table, for long mode.
    """
    if not boot_processor:
        return ()
    flags = Rflags(fixed=True)
    if kernel.mode == REAL:
        return (Regs(rip=offset(kernel.entry), rsp=layout.stack_top, rflags=flags), real_mode(kernel.entry), Fpu())
    if gdt is None:
        raise PlanError(f"{kernel.mode} mode needs a GDT; provide anyvisor_gdt")
    sregs = protected_mode(layout, gdt) if kernel.mode == PROTECTED else long_mode(layout, gdt, root)
    return (Regs(rip=kernel.entry, rsp=layout.stack_top, rflags=flags), sregs, Fpu())


def code_segment(entry: int) -> SegmentRegister:
    """CS for a first instruction in real mode at that address.

    >>> code_segment(0x7C00).selector, hex(code_segment(0x12345).selector)
    (0, '0x1234')
    """
    selector = 0 if entry < SEGMENT_BYTES else entry >> 4
    fields = {name: getattr(REAL_CODE, name) for name in ("limit", "type", "s", "present")}
    return SegmentRegister(base=selector << 4, selector=selector, **fields)


def offset(entry: int) -> int:
    """IP for a first instruction in real mode at that address: where it lies in its code segment."""
    return entry - code_segment(entry).base


def real_mode(entry: int) -> Change:
    """Segments and control registers of real mode, with the code segment for `entry`."""
    return Change(
        Sregs,
        cs=code_segment(entry),
        **dict.fromkeys(DATA_SEGMENTS, REAL_DATA),
        idt=REAL_IDT,
        cr0=Cr0(et=True),
        cr3=0,
        cr4=Cr4(0),
        efer=Efer(0),
    )
