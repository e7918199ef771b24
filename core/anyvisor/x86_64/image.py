"""Load an x86_64 kernel image, whichever form it has: a bzImage, or an ELF vmlinux.

>>> load_kernel("/boot/vmlinuz", Layout.for_memory(512 * MIB)).entry        # doctest: +SKIP
16777728
"""

from __future__ import annotations

import contextlib
import os

from anyvisor.errors import KernelImageError
from anyvisor.image_file import ImageFile
from anyvisor.plan import Kernel
from anyvisor.x86_64 import bzimage, elf
from anyvisor.x86_64.layout import Layout

_START_BYTES = 0x208
_UNPACK_IT = "unpack it first, or give the kernel as distributions install it (/boot/vmlinuz)"
_OTHERS = (
    (0x38, b"ARM\x64", "an aarch64 kernel Image; give a kernel built for x86_64"),
    (0x38, b"RSC\x05", "a RISC-V kernel Image; give a kernel built for x86_64"),
    (0, b"\x1f\x8b", f"gzip-compressed (an Image.gz of another architecture?); {_UNPACK_IT}"),
    (0, b"\xfd7zXZ\0", f"xz-compressed; {_UNPACK_IT}"),
    (0, b"BZh", f"bzip2-compressed; {_UNPACK_IT}"),
    (0, b"\x28\xb5\x2f\xfd", f"zstd-compressed; {_UNPACK_IT}"),
    (0, b"\x02\x21\x4c\x18", f"LZ4-compressed; {_UNPACK_IT}"),
    (0, b"MZ", "an EFI program (a unified kernel image?); give the bzImage that is in it"),
    (0, b"#!", "a script; give the kernel it starts"),
    (0, b"070701", "a cpio archive; give it as the initrd"),
    (0, b"\x27\x05\x19\x56", "a U-Boot uImage; give the bzImage or vmlinux it was made from"),
    (0, b"!<arch>\n", "a package or library archive; take the kernel out of it (dpkg-deb -x)"),
    (0, b"\xed\xab\xee\xdb", "an RPM package; take the kernel out of it"),
    (0, b"QFI\xfb", "a disk image; give the kernel that is on it"),
)
"""Files that people take for a kernel: offset, bytes found there, and what to do instead."""


def load_kernel(
    path: os.PathLike[str] | str, layout: Layout, *, unpack: bool | None = False, protocol: str | None = None
) -> Kernel:
    """Read a Linux kernel image and give it a place in guest RAM.

    With `unpack`, the vmlinux in a bzImage is unpacked here and not by the guest; None does so if it can be done.
    Otherwise only headers are read; the contents stay references to the file. `protocol` is `linux64` or `linux32`;
    None is the 64-bit one for an image that has it. KernelImageError when the file is no kernel that can be booted in
    the RAM of `layout`, or that has no entry of this protocol, saying what is wrong with it and where.
    """
    image = ImageFile.open(path)
    start = image.start(_START_BYTES)
    if start.startswith(elf.MAGIC):
        return _of_protocol(image, elf.load_elf(image, layout), protocol)
    if start.startswith(bzimage.MAGIC, bzimage.MAGIC_OFFSET):
        if unpack is None:
            with contextlib.suppress(KernelImageError):
                return bzimage.load_unpacked(image, layout, protocol)
        if unpack:
            return bzimage.load_unpacked(image, layout, protocol)
        return bzimage.load_bzimage(image, layout, protocol)
    raise no_kernel(image)


def _of_protocol(image: ImageFile, kernel: Kernel, protocol: str | None) -> Kernel:
    """The kernel, if it was to be of its protocol."""
    if protocol not in {None, kernel.protocol}:
        bits = {"long": 64, "protected": 32}[kernel.mode]
        words = f"is a {bits}-bit ELF kernel, which has no entry for {protocol}"
        raise image.error(f"{words}; enter it by {kernel.protocol}")
    return kernel


def no_kernel(image: ImageFile) -> KernelImageError:
    """The error for a file that is neither a bzImage nor an ELF file, with what it looks like instead."""
    start = image.start(_START_BYTES)
    for offset, magic, words in _OTHERS:
        if start.startswith(magic, offset):
            return image.error(f"is not an x86_64 kernel but looks like {words}")
    found = start[:8].hex(" ")
    return image.error(f"is neither a bzImage nor an ELF vmlinux (it begins {found}); give an x86_64 Linux kernel")
