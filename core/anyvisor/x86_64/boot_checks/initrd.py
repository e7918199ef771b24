"""The initrd, or the modules, that the kernel is told of: loaded where it is told, and out of harm's way."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.finding import Finding
from anyvisor.memory import Region
from anyvisor.plan import Blob
from anyvisor.x86_64.boot_checks.check import broken, check, hint
from anyvisor.x86_64.boot_checks.kernel import PACKED, is_linux, kernel_regions
from anyvisor.x86_64.boot_checks.modes import LINUX_DOC, MULTIBOOT_DOC, PVH_DOC
from anyvisor.x86_64.boot_checks.scene import MULTIBOOT, Scene
from anyvisor.x86_64.bzimage import DEFAULT_INITRD_LIMIT

ARCHIVES = (b"070701", b"070702", b"070707", b"\xc7\x71", b"\x71\xc7", b"\x04\x22\x4d\x18")
"""How cpio archives begin; LZ4's newer form."""
IMAGES = ((0, b"hsqs"), (0, b"-rom1fs-"), (0, b"\x45\x3d\xcd\x28"), (0x438, b"\x53\xef"))
"""File systems that can be a RAM disk: squashfs, romfs, cramfs, ext2."""
SNIFFED_BYTES = 4096
EARLY_USERSPACE = "Documentation/driver-api/early-userspace/buffer-format.rst"


@check(
    "initrd-loaded",
    "Where the kernel is told of an initrd or a module, one is loaded, as long as it is told.",
    LINUX_DOC,
    PVH_DOC,
    MULTIBOOT_DOC,
)
def initrd_loaded(scene: Scene) -> Iterator[Finding]:
    """In RAM, and in one piece with content."""
    for told in scene.initrds:
        piece = scene.loaded(told.start)
        remedy = "make anyvisor_boot_params name the address and size of the piece"
        if told.size_bytes <= 0 or not scene.in_ram(told.start, told.size_bytes):
            yield broken(str(told), "reaches outside RAM", wanted=f"addresses in {scene.ram_words}", remedy=remedy)
        elif piece is None or not Region(piece.guest_address, len(piece.content)).contains(told.start, told.size_bytes):
            found = _missing(piece, told)
            yield broken(str(told), "is not there as the kernel is told", found=found, wanted=_nearest(scene, told), remedy=remedy)  # fmt: skip  # noqa: E501
        elif piece.guest_address == told.start and told.size_bytes < len(piece.content):
            yield hint(
                str(told),
                "is longer than the kernel is told: the rest of it is lost",
                found=f"{told.size_bytes} bytes",
                wanted=f"{len(piece.content)} bytes, as {piece.name} has",
                remedy=remedy,
            )


def _missing(piece: Blob | None, told: Region) -> str:
    if piece is None:
        return f"nothing is loaded at {told.start:#x}"
    return f"{piece.name}, loaded there, ends at {piece.guest_address + len(piece.content) - 1:#x}"


def _nearest(scene: Scene, told: Region) -> str:
    """The piece that was meant, by its length, or by where it begins."""
    sized = [each for each in scene.plan.blobs if len(each.content) == told.size_bytes]
    if sized:
        return f"{sized[0].guest_address:#x}, where {sized[0].name} lies, which is as long"
    return f"a loaded piece of {told.size_bytes} bytes"


@check(
    "initrd-apart",
    "An initrd does not overlap the kernel, nor the memory that the kernel unpacks itself in.",
    LINUX_DOC,
)
def initrd_apart(scene: Scene) -> Iterator[Finding]:
    """The piece that the kernel is entered in, and of a bzImage all `init_size` bytes from where it will run."""
    for told in scene.initrds:
        for kernel in kernel_regions(scene):
            if told.overlaps(kernel):
                yield broken(
                    str(told),
                    f"overlaps the {kernel}: the kernel overwrites it before it is looked at, or it the kernel",
                    found=f"{told.start:#x}-{told.end - 1:#x}",
                    wanted=f"addresses outside {kernel.start:#x}-{kernel.end - 1:#x}",
                    remedy="place the initrd higher, or give the machine more memory",
                )
                break


@check("initrd-limit", "An initrd ends at or below the highest address that the kernel takes one at.", LINUX_DOC)
def initrd_limit(scene: Scene) -> Iterator[Finding]:
    """`initrd_addr_max`; kernels that can be loaded above 4 GiB take it anywhere."""
    page = scene.zero_page
    if not page or not page.initrd or page.header.xloadflags.can_be_loaded_above_4g:
        return
    limit = page.header.initrd_addr_max or (DEFAULT_INITRD_LIMIT if scene.setup_header else 0)
    if limit and page.initrd.end - 1 > limit:
        yield broken(
            str(page.initrd),
            "lies higher than the kernel takes an initrd",
            found=f"its last byte is at {page.initrd.end - 1:#x}",
            wanted=f"at most {limit:#x} (initrd_addr_max)",
            remedy="place it lower: Kernel.initrd_limit says how high it may be",
        )


@check(
    "initrd-content", "An initrd begins as one does: a cpio archive, packed or not, or a file system.", EARLY_USERSPACE
)
def initrd_content(scene: Scene) -> Iterator[Finding]:
    """Only of Linux: what another kernel's modules are, is its own affair."""
    if not scene.initrds or not scene.told or not is_linux(scene):
        return
    told = scene.initrds[0]
    start = scene.plan.read(told.start, max(0, min(SNIFFED_BYTES, told.size_bytes)))
    begins = start.lstrip(b"\0").startswith((*ARCHIVES, *PACKED))
    if not begins and not any(start.startswith(magic, at) for at, magic in IMAGES) and scene.loaded(told.start):
        yield hint(
            str(told),
            "does not begin like an initrd: the kernel will not find a root file system in it",
            found=start[:8].hex(" "),
            wanted="a cpio archive of the form newc, packed or not",
            remedy="give a file that `cpio -o -H newc` made, or see that the kernel is told where it begins",
        )


@check("root-file-system", "Linux has an initrd, or is told where its root file system is.", "Documentation/admin-guide/kernel-parameters.rst")  # fmt: skip  # noqa: E501
def root_file_system(scene: Scene) -> Iterator[Finding]:
    """A kernel may bring its own, so it is a hint."""
    if not scene.told or scene.initrds or scene.told.protocol == MULTIBOOT or not is_linux(scene):
        return
    if not any(each.startswith(("root=", "nfsroot=")) for each in scene.words):
        yield hint(
            "command line",
            "there is no initrd and no root=: unless the kernel brings its own initramfs, it will panic at the end",
            wanted="an initrd, or root= with the device of a root file system",
            remedy="give one with --initrd, or add root= with --append",
        )


CHECKS = (initrd_apart, initrd_loaded, initrd_limit, initrd_content, root_file_system)
