"""Which kernel a plan starts, told by what lies in memory: that is all that the processor will find.

Some facts about what gives a kernel away. A bzImage's protected-mode part begins `payload_offset` bytes before the
packed kernel, and how packed data begins is known; its 32-bit entry is its first byte, its 64-bit one lies 0x200
behind (Documentation/arch/x86/boot.rst). An unpacked Linux is entered at the first byte of its text, and has its banner
in it. A kernel with a PVH entry says where in an ELF note of the owner Xen, and in another what it is; the notes are
loaded with the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from anyvisor.memory import Region, align_up
from anyvisor.plan import Blob
from anyvisor.x86_64.boot_checks.scene import MULTIBOOT, PVH, Scene

PACKED = (b"\x1f\x8b", b"\xfd7zXZ", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"BZh", b"\x5d\0\0", b"\x89LZO")
"""How a packed kernel begins: gzip, XZ, LZ4, zstd, bzip2, LZMA, LZO."""
BANNER = b"Linux version "
ENTRY_NOTE, SYSTEM_NOTE = 18, 6
"""XEN_ELFNOTE_PHYS32_ENTRY, XEN_ELFNOTE_GUEST_OS."""
OWNER = b"Xen\0"
MOST_NOTE_BYTES = 16
"""Of a descriptor: an address, or a name."""


def bzimage_start(scene: Scene) -> int | None:
    """Where the protected-mode part of a bzImage is loaded; None if none is."""
    header = scene.setup_header
    if not header or not header.payload_length:
        return None
    starts = (each.guest_address for each in scene.plan.blobs if len(each.content) > header.payload_offset)
    return next((at for at in starts if scene.plan.read(at + header.payload_offset, 8).startswith(PACKED)), None)


def kernel_regions(scene: Scene) -> list[Region]:
    """What the kernel takes up before it knows of any memory map: the piece it is entered in, all its `init_size`."""
    found = []
    at = scene.entry_address
    piece = None if at is None else scene.loaded(at)
    if piece:
        found.append(Region(piece.guest_address, piece.size_bytes, "kernel"))
    header, start = scene.setup_header, bzimage_start(scene)
    if header and start is not None and header.init_size:
        runs_at = header.pref_address
        if header.relocatable_kernel:
            alignment = header.kernel_alignment or 1
            runs_at = align_up(max(start, header.pref_address), alignment) if not alignment & alignment - 1 else start
        found.append(Region(runs_at, header.init_size, "kernel's init_size"))
    return found


def is_linux(scene: Scene) -> bool:
    """Whether the kernel is Linux, or at least is told what only Linux is told."""
    protocol = scene.told.protocol if scene.told else MULTIBOOT
    return any(name == b"linux" for name in _notes(scene, SYSTEM_NOTE)) if protocol == PVH else protocol != MULTIBOOT


def pvh_entries(scene: Scene) -> set[int]:
    """The PVH entries that ELF notes in memory name."""
    return {int.from_bytes(each, "little") for each in _notes(scene, ENTRY_NOTE)}


def has_banner(piece: Blob) -> bool:
    """Whether an unpacked Linux lies in that piece."""
    return BANNER in piece.read(0, len(piece.content))


def _notes(scene: Scene, kind: int) -> Iterator[bytes]:
    """The descriptors of Xen's notes of a kind, in any piece but the initrd; without trailing zeros."""
    told = {each.start for each in scene.initrds}
    for piece in scene.plan.blobs:
        if piece.guest_address in told:
            continue
        content = piece.read(0, len(piece.content))
        at = content.find(OWNER)
        while at >= 0:
            owner_bytes, descriptor_bytes, number = struct.unpack("<3I", content[at - 12 : at].rjust(12, b"\0"))
            if (owner_bytes, number) == (len(OWNER), kind) and descriptor_bytes <= MOST_NOTE_BYTES and at >= 12:
                yield content[at + len(OWNER) : at + len(OWNER) + descriptor_bytes].rstrip(b"\0")
            at = content.find(OWNER, at + 1)
