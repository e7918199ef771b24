"""The processor as the boot protocol wants it: the mode, the flags, the segments; and that a register leads somewhere.

Some facts about protocols at the first instruction. Which protocol it is, is told by what is handed over: Linux's zero
page in RSI, PVH's start info in EBX, multiboot's magic number in EAX. A flat binary is handed nothing, and may be
entered as it likes. Most kernels load segments of their own within a few instructions, so that a selector which the
protocol does not want seldom hurts; but before that they may load DS and SS by the protocol's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.finding import Finding
from anyvisor.x86_64.boot_checks.check import broken, check, hint
from anyvisor.x86_64.boot_checks.scene import LINUX, MULTIBOOT, PROCESSOR, PVH, Mode, Scene
from anyvisor.x86_64.descriptors import CodeType, DataType
from anyvisor.x86_64.registers import BOOT_CS, BOOT_DS
from anyvisor.x86_64.state import SegmentRegister

LINUX_DOC, PVH_DOC = "Documentation/arch/x86/boot.rst", "Xen docs/misc/pvh.pandoc"
MULTIBOOT_DOC = "Multiboot 0.6.96, 3.2"
ALL = LINUX_DOC, PVH_DOC, MULTIBOOT_DOC
WANTED = {LINUX: (Mode.LONG, Mode.PROTECTED), PVH: (Mode.PROTECTED,), MULTIBOOT: (Mode.PROTECTED,)}
LEADERS = {LINUX: "RSI leads to a zero page", PVH: "EBX leads to a PVH start info", MULTIBOOT: "EAX says multiboot"}
DATA = ("ds", "es", "ss")
FLAT_LIMIT = 0xFFFF_FFFF


@check("protocol-mode", "The processor is in a mode in which the boot protocol enters kernels.", *ALL)
def protocol_mode(scene: Scene) -> Iterator[Finding]:
    """64-bit mode or flat 32-bit mode for Linux, flat 32-bit mode for PVH and multiboot."""
    told = scene.told
    if told and scene.mode not in WANTED[told.protocol]:
        sregs = scene.sregs
        yield broken(
            PROCESSOR,
            f"the wrong CPU mode for the entry protocol: {LEADERS[told.protocol]}, and the processor is in "
            f"{scene.mode.value}",
            found=f"CR0 {sregs.cr0:#x}, EFER {sregs.efer:#x}, CS.L={sregs.cs.l:d} CS.D={sregs.cs.db:d}",
            wanted=" or ".join(each.value for each in WANTED[told.protocol]),
            section=_section(told.protocol),
            remedy="give it the registers of its protocol in anyvisor_registers, or choose another --protocol",
            vcpu=0,
        )


@check("protocol-flags", "Interrupts are off, and so are single-stepping (TF) and virtual-8086 mode (VM).", *ALL)
def protocol_flags(scene: Scene) -> Iterator[Finding]:
    """RFLAGS at the first instruction."""
    flags = scene.regs.rflags
    wrong = [name for name, bit in (("IF", flags.interrupt_enable), ("TF", flags.tf), ("VM", flags.vm)) if bit]
    if scene.told and wrong:
        yield broken(
            PROCESSOR,
            f"RFLAGS has {' and '.join(wrong)} set, and the kernel has no handlers yet: the first event kills it",
            found=f"RFLAGS {flags:#x}",
            wanted="IF, TF and VM clear",
            section=_section(scene.told.protocol),
            remedy="clear them in anyvisor_registers",
            vcpu=0,
        )


@check("protocol-segments", "CS is flat and readable code, DS, ES and SS are flat and writable data.", *ALL)
def protocol_segments(scene: Scene) -> Iterator[Finding]:
    """In 64-bit mode base and limit are not looked at, and DS, ES and SS may be anything."""
    if not scene.told or scene.mode not in WANTED[scene.told.protocol]:
        return
    for name in ("cs", *DATA):
        register: SegmentRegister = getattr(scene.sregs, name)
        if problem := _not_flat(name, register, scene.mode):
            yield broken(
                PROCESSOR,
                f"{name.upper()} is no {'flat code' if name == 'cs' else 'flat data'} segment: {problem}",
                found=f"selector {register.selector:#x}, base {register.base:#x}, limit {register.limit:#x}, "
                f"type {register.type:#x}",
                wanted="base 0, limit 0xffffffff, " + ("code that can be read" if name == "cs" else "writable data"),
                section=_section(scene.told.protocol),
                remedy="load it from a flat descriptor in anyvisor_registers",
                vcpu=0,
            )


def _not_flat(name: str, register: SegmentRegister, mode: Mode) -> str:
    """What is wrong with a segment register; empty if nothing is."""
    problems = _not_code(register, mode) if name == "cs" else _not_data(register, mode)
    if mode is Mode.PROTECTED and (register.base or register.limit != FLAT_LIMIT):
        problems = (*problems, "it does not cover 0 to 4 GiB")
    return next(iter(problems), "")


def _not_code(register: SegmentRegister, mode: Mode) -> tuple[str, ...]:
    if not (register.s and register.type & CodeType.executable.mask):
        return ("it holds no code",)
    if mode is Mode.PROTECTED and not register.db:
        return ("it is 16-bit code",)
    return () if register.type & CodeType.readable.mask else ("it cannot be read",)


def _not_data(register: SegmentRegister, mode: Mode) -> tuple[str, ...]:
    """In 64-bit mode they may be anything, null included."""
    if mode is Mode.LONG:
        return ()
    if register.unusable or not register.present:
        return ("it is not usable",)
    data = register.s and not register.type & CodeType.executable.mask
    return () if data and register.type & DataType.writable.mask else ("it holds no data that can be written",)


@check(
    "boot-selectors",
    "For Linux, CS is selector 0x10 (`__BOOT_CS`), and DS, ES and SS are 0x18 (`__BOOT_DS`).",
    LINUX_DOC,
)
def boot_selectors(scene: Scene) -> Iterator[Finding]:
    """Older kernels load DS by its number before they have a GDT of their own."""
    if not scene.told or scene.told.protocol != LINUX:
        return
    found = {name: getattr(scene.sregs, name).selector for name in ("cs", *DATA)}
    if found["cs"] != BOOT_CS or any(found[name] != BOOT_DS for name in DATA):
        yield hint(
            PROCESSOR,
            "the selectors are not those of the Linux boot protocol",
            found=", ".join(f"{name.upper()} {value:#x}" for name, value in found.items()),
            wanted=f"CS {BOOT_CS:#x}, DS, ES and SS {BOOT_DS:#x}",
            remedy="put code and data at these selectors in anyvisor_gdt",
            vcpu=0,
        )


@check(
    "protocol-registers",
    "Linux's 32-bit entry finds EBX, EBP and EDI zero; PVH's finds CR4 zero, and in CR0 nothing but PE and ET.",
    LINUX_DOC,
    PVH_DOC,
)
def protocol_registers(scene: Scene) -> Iterator[Finding]:
    """What protocols want to be 0, and kernels seldom look at."""
    if not scene.told or scene.mode is not Mode.PROTECTED:
        return
    regs, sregs = scene.regs, scene.sregs
    found = {"EBX": regs.rbx, "EBP": regs.rbp, "EDI": regs.rdi} if scene.told.protocol == LINUX else {}
    if scene.told.protocol == PVH:
        found = {"CR4": int(sregs.cr4), "CR0 (but PE and ET)": int(sregs.cr0.replace(pe=False, et=False))}
    if wrong := {name: value for name, value in found.items() if value}:
        yield hint(
            PROCESSOR,
            f"the protocol wants {' and '.join(wrong)} to be 0",
            found=", ".join(f"{name} {value:#x}" for name, value in wrong.items()),
            wanted="0",
            section=_section(scene.told.protocol),
            remedy="clear them in anyvisor_registers",
            vcpu=0,
        )


def _section(protocol: str) -> str:
    return {LINUX: LINUX_DOC, PVH: PVH_DOC, MULTIBOOT: MULTIBOOT_DOC}[protocol]


CHECKS = (protocol_mode, protocol_flags, protocol_segments, boot_selectors, protocol_registers)
