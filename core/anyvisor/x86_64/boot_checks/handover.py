"""What the kernel is handed: that it is found, can be read, and names kernels and initrds as they were loaded."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from anyvisor.errors import PlanError
from anyvisor.finding import Finding
from anyvisor.memory import MIB, PAGE_BYTES
from anyvisor.plan import Blob
from anyvisor.x86_64 import multiboot, pvh, setup_header
from anyvisor.x86_64.boot_checks.check import broken, check, hint
from anyvisor.x86_64.boot_checks.kernel import bzimage_start
from anyvisor.x86_64.boot_checks.modes import LINUX_DOC, MULTIBOOT_DOC, PVH_DOC
from anyvisor.x86_64.boot_checks.scene import PROCESSOR, Mode, Scene
from anyvisor.x86_64.bootparams import E820_ENTRIES, E820_TABLE, SENTINEL, SIZE_BYTES
from anyvisor.x86_64.bzimage import DEFAULT_CODE32_START, MAGIC
from anyvisor.x86_64.e820 import ENTRY, MAX_ENTRIES, E820Type
from anyvisor.x86_64.handed_over import LOW_HALF
from anyvisor.x86_64.multiboot.information import MultibootInfo
from anyvisor.x86_64.registers import MULTIBOOT_MAGIC

ZERO_PAGE_DOC = "Documentation/arch/x86/zero-page.rst"
TYPE_OF_LOADER = 0x210


@check(
    "handover-found",
    "A register leads to the structure that the boot protocol hands over, where one lies in memory.",
    LINUX_DOC,
    PVH_DOC,
    MULTIBOOT_DOC,
)
def handover_found(scene: Scene) -> Iterator[Finding]:
    """RSI to a zero page, EBX to a start info; and multiboot's information comes with its magic number."""
    if not scene.starts or scene.told or scene.misled or scene.is_under_way:
        return
    regs = scene.regs
    for piece in scene.plan.blobs:
        if _is_zero_page(piece):
            yield _lost("RSI", regs.rsi, piece, "zero page", LINUX_DOC)
        elif piece.read(0, 4) == pvh.MAGIC.to_bytes(4, "little"):
            yield _lost("EBX", regs.rbx & LOW_HALF, piece, "PVH start info", PVH_DOC)
    if scene.mode is Mode.PROTECTED and _leads_to_multiboot(scene, regs.rbx & LOW_HALF):
        yield broken(
            PROCESSOR,
            "EBX leads to a multiboot information structure, and EAX has not multiboot's magic number",
            found=f"EAX {regs.rax & LOW_HALF:#x}",
            wanted=f"{MULTIBOOT_MAGIC:#x}",
            section=MULTIBOOT_DOC,
            remedy="set RAX to it in anyvisor_registers",
            vcpu=0,
        )
    if _lacks_magic(scene):
        yield hint(
            PROCESSOR,
            f"RSI leads to what looks like a zero page, without the signature HdrS at {setup_header.JUMP_END:#x}",
            found=scene.plan.read(regs.rsi + setup_header.JUMP_END, 4).hex(" "),
            wanted=MAGIC.hex(" "),
            section=LINUX_DOC,
            remedy="copy the kernel's setup header into the zero page, or fill in its boot_flag, header and version",
            vcpu=0,
        )


def _lost(register: str, value: int, piece: Blob, what: str, section: str) -> Finding:
    return broken(
        PROCESSOR,
        f"{register} does not lead to the {what}: the kernel will take whatever lies there for it",
        found=f"{register} {value:#x}",
        wanted=f"{piece.guest_address:#x}, where a {what} lies ({piece.name})",
        section=section,
        remedy=f"set R{register[1:]} to it in anyvisor_registers",
        vcpu=0,
    )


def _is_zero_page(piece: Blob) -> bool:
    """Whether a piece is a page with a setup header that a loader has signed: in an image it has not."""
    head = piece.read(setup_header.JUMP_END, len(MAGIC)) == MAGIC
    return len(piece.content) == SIZE_BYTES and head and piece.read(TYPE_OF_LOADER, 1) != b"\0"


def _lacks_magic(scene: Scene) -> bool:
    """Whether RSI leads to a page that is a zero page but for its signature: it has a memory map."""
    at = scene.regs.rsi
    if scene.mode is Mode.REAL or not at or not scene.loaded(at) or not scene.in_ram(at, SIZE_BYTES):
        return False
    page = scene.plan.read(at, SIZE_BYTES)
    start, size_bytes, kind = ENTRY.unpack_from(page, E820_TABLE)
    known = kind in E820Type._value2member_map_ and size_bytes and not (start | size_bytes) % 1024
    return 0 < page[E820_ENTRIES] <= MAX_ENTRIES and bool(known)


def _leads_to_multiboot(scene: Scene, at: int) -> bool:
    """Whether a multiboot information structure lies there: it has no mark, but what it leads to must make sense."""
    if not scene.loaded(at):
        return False
    try:
        found = multiboot.Handover.read(scene.plan.read, at)
    except (PlanError, struct.error):
        return False
    ram = [each for each in found.memory_map if each.type == E820Type.RAM]
    return bool(found.loader) and found.loader.isprintable() and bool(ram)


@check(
    "handover-readable",
    "What is handed over can be read: counts and lists are sound, and strings end.",
    ZERO_PAGE_DOC,
    PVH_DOC,
    MULTIBOOT_DOC,
)
def handover_readable(scene: Scene) -> Iterator[Finding]:
    """The structure and everything it leads to but the firmware's tables."""
    told, error = scene.told, scene.unreadable.get("handover")
    if error:
        yield broken("boot information", str(error), remedy="make it anew in anyvisor_boot_params")
    elif told and not scene.in_ram(told.place.start, told.place.size_bytes):
        yield broken(str(told.place), "reaches outside RAM", wanted=f"an address in {scene.ram_words}")
    elif told and isinstance(told.structure, MultibootInfo) and not told.structure.flags:
        problem = "says nothing at all, its flags are 0: does EBX lead to it?"
        yield broken(str(told.place), problem, section=MULTIBOOT_DOC, remedy="set RBX to the structure")


@check("zero-page-header", "The zero page's setup header is signed by its loader, and has its boot flag.", LINUX_DOC)
def zero_page_header(scene: Scene) -> Iterator[Finding]:
    """Without a type_of_loader, Linux takes no initrd."""
    page, told = scene.zero_page, scene.told
    if not page or not told:
        return
    header, subject = page.header, str(told.place)
    if not header.type_of_loader:
        words = "type_of_loader is 0" + (": Linux will not look at the initrd" if told.initrds else "")
        kind = broken if told.initrds else hint
        yield kind(subject, words, found="0", wanted="0xff, or the loader's number", remedy="set type_of_loader")
    if header.boot_flag != setup_header.BOOT_FLAG:
        found, wanted = f"{header.boot_flag:#x}", f"{setup_header.BOOT_FLAG:#x}"
        yield hint(subject, "boot_flag is wrong", found=found, wanted=wanted, remedy="copy the kernel's setup header")
    if sentinel := scene.plan.read(told.place.start + SENTINEL, 1)[0]:
        problem = (
            "the sentinel byte at 0x1ef is set, so Linux takes the page for a copied image and clears fields in it"
        )
        section = ZERO_PAGE_DOC
        yield hint(subject, problem, found=f"{sentinel:#x}", wanted="0", section=section, remedy="clear the page first")
    if scene.setup_header and not header.loadflags.loaded_high and (scene.entry_address or 0) >= MIB:
        yield hint(subject, "loadflags has not LOADED_HIGH, and the kernel lies above 1 MiB", remedy="set its bit 0")


@check("kernel-place", "A bzImage lies where its setup header allows: aligned, or where it must be.", LINUX_DOC)
def kernel_place(scene: Scene) -> Iterator[Finding]:
    """`relocatable_kernel`, `min_alignment` and `pref_address`."""
    header, start = scene.setup_header, bzimage_start(scene)
    if not header or start is None:
        return
    remedy = "return it so from anyvisor_load_kernel"
    if header.relocatable_kernel:
        alignment = 1 << header.min_alignment if 12 <= header.min_alignment < 32 else PAGE_BYTES
        if start % alignment:
            wanted = f"a multiple of {alignment:#x}"
            yield broken("kernel", "is not aligned as it must be", found=f"{start:#x}", wanted=wanted, remedy=remedy)
    elif start not in {header.pref_address, header.code32_start, DEFAULT_CODE32_START}:
        wanted = f"{header.pref_address or header.code32_start:#x}"
        yield broken(
            "kernel", "is not relocatable and lies elsewhere", found=f"{start:#x}", wanted=wanted, remedy=remedy
        )


@check(
    "pvh-start-info",
    "PVH's start info has a memory map, without which a kernel that is not on Xen knows of no memory.",
    PVH_DOC,
)
def pvh_start_info(scene: Scene) -> Iterator[Finding]:
    """From version 1 on."""
    told = scene.told
    if told and isinstance(told.structure, pvh.StartInfo) and not told.memory_map:
        info = told.structure
        found = f"version {info.version}, {info.memmap_entries} entries at {info.memmap_paddr:#x}"
        remedy = "give it one in anyvisor_boot_params (Handover.memmap)"
        yield broken(str(told.place), "has no memory map", found=found, wanted="a list of ranges", remedy=remedy)


CHECKS = (handover_found, handover_readable, zero_page_header, kernel_place, pvh_start_info)
