"""The first instruction: that there is one, and that it is the kernel's entry."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.finding import Finding
from anyvisor.x86_64.boot_checks.check import broken, check
from anyvisor.x86_64.boot_checks.kernel import bzimage_start, has_banner, pvh_entries
from anyvisor.x86_64.boot_checks.scene import LINUX, PROCESSOR, PVH, Mode, Scene
from anyvisor.x86_64.bzimage import ENTRY_64, WITH_64_BIT_ENTRY

CODE_BYTES = 16
"""Longer than any instruction."""
BOOT_RST, PVH_DOC = "Documentation/arch/x86/boot.rst", "Xen docs/misc/pvh.pandoc"
AFTER_REX = frozenset([0x01, 0x03, 0x29, 0x2B, 0x31, 0x33, 0x81, 0x83, 0x89, 0x8B, 0x8D, *range(0xB8, 0xC0), 0xC7])
"""Opcodes behind a REX.W prefix, which 32-bit code reads as DEC, with which kernels begin: arithmetic, MOV, LEA."""


@check(
    "entry-mapped",
    "With paging on, the page tables map the first instruction, and let it be executed.",
    "SDM Vol. 3, 4.5.4 and 4.6",
    "APM Vol. 2, 5.3 and 5.6",
)
def entry_mapped(scene: Scene) -> Iterator[Finding]:
    """CS and RIP, through the tables that CR3 leads to."""
    if scene.pages is None:
        return
    walk = scene.pages.walk(scene.entry)
    remedy = "map it in anyvisor_page_tables, or set RIP to where the kernel is mapped"
    if walk.guest_address is None and not walk.is_broken:
        yield broken(PROCESSOR, f"the entry {scene.entry:#x} is not mapped: {walk.problem}", remedy=remedy, vcpu=0)
    elif walk.guest_address is not None and walk.is_no_execute:
        yield broken(PROCESSOR, f"the page of the entry {scene.entry:#x} is marked no-execute", remedy=remedy, vcpu=0)
    elif walk.guest_address is not None and walk.is_user and scene.sregs.cr4.smep and not scene.sregs.ss.dpl:
        problem = f"the page of the entry {scene.entry:#x} is a user page, which SMEP keeps a kernel from executing"
        yield broken(PROCESSOR, problem, remedy=remedy, vcpu=0)


@check("entry-in-ram", "The first instruction lies in RAM.", "SDM Vol. 3, 10.1.4", "APM Vol. 2, 14.1.5")
def entry_in_ram(scene: Scene) -> Iterator[Finding]:
    """Where CS and RIP lead in the end."""
    at = scene.entry_address
    if at is not None and not scene.in_ram(at):
        yield broken(
            PROCESSOR,
            "the first instruction is outside RAM",
            found=_place(scene, at),
            wanted=f"an address in {scene.ram_words}",
            remedy="set RIP to the kernel's entry, or give the machine the memory that it is loaded to",
            vcpu=0,
        )


@check("entry-loaded", "The first instruction is in a piece that is loaded, and not in empty memory.", BOOT_RST)
def entry_loaded(scene: Scene) -> Iterator[Finding]:
    """A piece has content there: room that is kept free does not count."""
    at = scene.entry_address
    if at is None or not scene.in_ram(at) or scene.loaded(at):
        return
    below = [each for each in scene.plan.blobs if each.guest_address <= at]
    nearest = max(below, key=lambda each: each.guest_address, default=None)
    ends = nearest.guest_address + len(nearest.content) - 1 if nearest else 0
    yield broken(
        PROCESSOR,
        "nothing is loaded where the first instruction should be, the memory there is all zeros",
        found=_place(scene, at),
        wanted=f"an address in a loaded piece; the last one before it, {nearest.name}, ends at {ends:#x}"
        if nearest
        else "an address in a loaded piece",
        remedy="set RIP to the kernel's entry",
        vcpu=0,
    )


@check("entry-code", "The bytes at the first instruction are code: not all 0x00 or all 0xff.", "SDM Vol. 2A, 2.1")
def entry_code(scene: Scene) -> Iterator[Finding]:
    """Zeros would be executed as ADD [RAX], AL, ones are no instruction."""
    at = scene.entry_address
    piece = None if at is None else scene.loaded(at)
    if piece is None or at is None:
        return
    code = scene.plan.read(at, CODE_BYTES)
    if len(set(code)) == 1 and code[0] in (0x00, 0xFF):
        yield broken(
            PROCESSOR,
            f"there is no code at the entry, in {piece.name}: the {CODE_BYTES} bytes there are all {code[0]:#04x}",
            found=_place(scene, at),
            wanted="the kernel's first instruction",
            remedy="set RIP to the kernel's entry; if it is, the image is damaged",
            vcpu=0,
        )


@check(
    "entry-point",
    "The kernel is entered where its protocol says: a bzImage at its start in 32-bit mode and 0x200 bytes behind in"
    " 64-bit mode, an unpacked Linux at the start of its text, a PVH kernel where its ELF note says.",
    BOOT_RST,
    PVH_DOC,
)
def entry_point(scene: Scene) -> Iterator[Finding]:
    """What lies in memory says which kernel it is; of an unknown kernel nothing is known."""
    at = scene.entry_address
    if at is None or not scene.told or scene.mode not in (Mode.LONG, Mode.PROTECTED):
        return
    if scene.told.protocol == LINUX:
        yield from _linux_entry(scene, at)
    elif scene.told.protocol == PVH:
        entries = pvh_entries(scene)
        if entries and at not in entries:
            wanted = " or ".join(f"{each:#x}, from the ELF note" for each in sorted(entries))
            yield _off(at, min(entries, key=lambda each: abs(each - at)), "the kernel's PVH entry", PVH_DOC, wanted)


def _linux_entry(scene: Scene, at: int) -> Iterator[Finding]:
    header, start = scene.setup_header, bzimage_start(scene)
    long = scene.mode is Mode.LONG
    if header and long and header.version >= WITH_64_BIT_ENTRY and not header.xloadflags.kernel_64:
        yield broken(
            PROCESSOR,
            "the kernel has no 64-bit entry, and the processor is in 64-bit mode",
            found=f"xloadflags {header.xloadflags:#x}",
            wanted="bit 0, XLF_KERNEL_64, or 32-bit protected mode without paging",
            section=BOOT_RST,
            remedy="enter it by linux32, or give a kernel built for x86_64",
            vcpu=0,
        )
    elif start is not None:
        wanted, other = (start + ENTRY_64, start) if long else (start, start + ENTRY_64)
        name = f"the {'64' if long else '32'}-bit entry of the bzImage at {start:#x}"
        if at == other:
            name += f" (it is the {'32' if long else '64'}-bit one: the address or the CPU mode is wrong)"
            yield _off(at, wanted, name, BOOT_RST, f"{wanted:#x}, or the other mode")
        elif at != wanted:
            yield _off(at, wanted, name, BOOT_RST, f"{wanted:#x}")
    elif (piece := scene.loaded(at)) and at != piece.guest_address and has_banner(piece):
        start = piece.guest_address
        yield _off(at, start, "the start of Linux's text", BOOT_RST, f"{start:#x}, the start of {piece.name}")


@check(
    "entry-bits",
    "A kernel that is entered in 32-bit mode does not begin with 64-bit code.",
    "SDM Vol. 2A, 2.2.1",
    "APM Vol. 3, 1.2.7",
)
def entry_bits(scene: Scene) -> Iterator[Finding]:
    """A REX prefix is an instruction of its own in 32-bit mode, one that no kernel begins with."""
    at = scene.entry_address
    if at is None or scene.mode is not Mode.PROTECTED or not scene.told or not scene.loaded(at):
        return
    first, second = scene.plan.read(at, 2)
    if 0x48 <= first <= 0x4F and second in AFTER_REX:
        yield broken(
            PROCESSOR,
            "the wrong CPU mode for the entry: the kernel begins with 64-bit code, and the processor is in 32-bit mode",
            found=f"{first:02x} {second:02x} at {at:#x}, a REX.W prefix",
            wanted="64-bit mode, or the kernel's 32-bit entry",
            remedy="enter the kernel by linux64: long mode, with page tables and a 64-bit CS",
            vcpu=0,
        )


def _off(at: int, right: int, what: str, section: str, wanted: str) -> Finding:
    distance = f"{abs(at - right):#x} bytes {'above' if at > right else 'below'}"
    return broken(
        PROCESSOR,
        f"the entry address is {distance} {what}",
        found=f"{at:#x}",
        wanted=wanted,
        section=section,
        remedy="set RIP to it, in anyvisor_registers or as the entry that anyvisor_load_kernel returns",
        vcpu=0,
    )


def _place(scene: Scene, at: int) -> str:
    return f"{at:#x}" if at == scene.entry else f"{at:#x} (linear {scene.entry:#x})"


CHECKS = (entry_mapped, entry_in_ram, entry_point, entry_loaded, entry_code, entry_bits)
