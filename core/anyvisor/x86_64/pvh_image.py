"""Load a kernel that has a PVH entry: a vmlinux, of Linux, Xen, a BSD or a unikernel, or the vmlinux in a bzImage.

Some facts about the PVH entry (Xen: docs/misc/pvh.pandoc). A kernel that can be entered so says where in an ELF note:
owner `Xen`, type 18 (XEN_ELFNOTE_PHYS32_ENTRY), whose descriptor is the guest-physical address of the first
instruction, in 4 or 8 bytes. The code there is 32-bit code, also in a 64-bit kernel; the entry that the ELF header
names plays no part. A bzImage cannot say it: the note is in the vmlinux that it packs.
"""

from __future__ import annotations

import contextlib
import os

from anyvisor.errors import KernelImageError
from anyvisor.image_file import ImageFile
from anyvisor.plan import Kernel
from anyvisor.x86_64 import bzimage
from anyvisor.x86_64.elf import COMMAND_LINE_LIMIT, INITRD_LIMITS, MAGIC, Elf
from anyvisor.x86_64.elf_notes import Note, notes
from anyvisor.x86_64.image import no_kernel
from anyvisor.x86_64.layout import Layout

OWNER = b"Xen"
PHYS32_ENTRY = 18
DESCRIPTOR_BYTES = (4, 8)


def entry_note(executable: Elf) -> Note | None:
    """The note that names the PVH entry, the first if there are several; None if there is none."""
    return next((note for note in notes(executable) if (note.name, note.type) == (OWNER, PHYS32_ENTRY)), None)


def speaks_pvh_first(path: os.PathLike[str] | str) -> bool:
    """Whether a file is to be entered by PVH if nobody says otherwise: a 32-bit ELF file with a PVH entry.

    A 64-bit one has the 64-bit Linux entry too, by which Linux is told more.
    """
    with contextlib.suppress(KernelImageError):
        executable = Elf.read(ImageFile.open(path))
        return executable.bits == 32 and entry_note(executable) is not None
    return False


def load_pvh(path: os.PathLike[str] | str, layout: Layout, *, unpack: bool | None = None) -> Kernel:
    """The kernel in a file that has a PVH entry, each segment where its program header says.

    Out of a bzImage, the vmlinux is unpacked here, unless `unpack` is false. KernelImageError when there is no PVH
    entry, or the kernel cannot be in the RAM of `layout`.
    """
    image = ImageFile.open(path)
    if image.start(len(MAGIC)) == MAGIC:
        return _load(image, layout)
    if not bzimage.is_bzimage(image):
        raise no_kernel(image)
    packed = bzimage.BzImage.read(image)
    if unpack is False:
        words = "is a bzImage, whose PVH entry, if it has one, is in the vmlinux that it packs"
        raise image.error(f"{words}; let it be unpacked (leave out `unpack`), or enter it by {packed.protocol}")
    return _load(packed.vmlinux(layout), layout)


def _load(image: ImageFile, layout: Layout) -> Kernel:
    executable = Elf.read(image)
    note = entry_note(executable)
    if note is None:
        has = "linux64" if executable.bits == 64 else "linux32"
        raise image.error(f"has no PVH entry (the ELF note XEN_ELFNOTE_PHYS32_ENTRY); enter it by {has}")
    entry = _entry(image, note)
    blobs = executable.load(layout, entry, note.offset)
    limit = INITRD_LIMITS[executable.bits]
    return Kernel("pvh", entry, blobs, COMMAND_LINE_LIMIT, limit, mode="protected")


def _entry(image: ImageFile, note: Note) -> int:
    if len(note.descriptor) not in DESCRIPTOR_BYTES:
        words = f"its PVH entry has {len(note.descriptor)} bytes where an address has 4 or 8"
        raise image.error(words, note.offset)
    entry = int.from_bytes(note.descriptor, "little")
    if entry >> 32:
        raise image.error(f"its PVH entry {entry:#x} is beyond 4 GiB, where 32-bit code cannot be", note.offset)
    return entry
