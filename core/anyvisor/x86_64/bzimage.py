"""Load a bzImage, the form in which distributions ship Linux for x86: a small loader around a packed vmlinux.

Some facts about it (Documentation/arch/x86/boot.rst). `setup_sects` sectors of real-mode code come first,
with the setup header in them; then the protected-mode part, which unpacks the kernel. Its 32-bit entry is the first
byte of that part, in every kernel; a 64-bit kernel has another one 0x200 bytes into it (protocol 2.12, `xloadflags`).
The unpacker works in place: it needs `init_size` bytes from where the kernel will run, and a relocatable kernel that
is loaded below its `pref_address` goes up to there all the same. So it is loaded where it will run, and everything it
needs is one range.

Kernels of a protocol before 2.10 do not say how much they need, nor where they would rather be: they go to
`code32_start`, or a little above 1 MiB if they are relocatable (2.05). Before 2.02 there was no `cmd_line_ptr`, and so
no command line without the real-mode code: those are refused.
"""

from __future__ import annotations

import attrs

from anyvisor.image_file import ImageFile
from anyvisor.memory import GIB, MIB, PAGE_BYTES, Region, align_up
from anyvisor.plan import Blob, Kernel
from anyvisor.x86_64 import elf, setup_header
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.placement import check_room
from anyvisor.x86_64.setup_header import SetupHeader
from anyvisor.x86_64.unpack import MAX_UNPACKED_BYTES, unpack

MAGIC = b"HdrS"
MAGIC_OFFSET = 0x202
SECTOR_BYTES = 512
ENTRY_64 = 0x200
DEFAULT_SETUP_SECTORS = 4
DEFAULT_COMMAND_LINE_LIMIT = 255
DEFAULT_INITRD_LIMIT = 0x37FFFFFF
DEFAULT_CODE32_START = 1 * MIB
"""What older protocols mean by leaving `setup_sects`, `cmdline_size` and so on out (boot.rst)."""
OLDEST, WITH_64_BIT_ENTRY, WITH_PREF_ADDRESS = 0x202, 0x20C, 0x20A
"""Versions of the protocol: the oldest that is booted here, and those that brought something."""
_SETUP_SECTS, _SYSSIZE, _BOOT_FLAG, _JUMP, _VERSION, _LOADFLAGS = 0x1F1, 0x1F4, 0x1FE, 0x200, 0x206, 0x211
_CODE32_START = 0x214
_ALIGNMENT, _XLOADFLAGS, _PAYLOAD_OFFSET, _PREF_ADDRESS, _INIT_SIZE = 0x230, 0x236, 0x248, 0x258, 0x260
_SHORT_JUMP = 0xEB


@attrs.frozen
class BzImage:
    """A bzImage whose header is sound: the header, as bytes and by name, and where the two parts meet."""

    image: ImageFile
    header_bytes: bytes
    header: SetupHeader
    setup_bytes: int

    @classmethod
    def read(cls, image: ImageFile) -> BzImage:
        """The bzImage in a file; KernelImageError when its header contradicts itself or the file."""
        header_bytes = _header_bytes(image)
        header = SetupHeader.from_bytes(header_bytes)
        if header.boot_flag != setup_header.BOOT_FLAG:
            raise image.error(f"the boot flag is {header.boot_flag:#x}, not 0xaa55", _BOOT_FLAG)
        if not header.loadflags.loaded_high:
            raise image.error("is a zImage, loaded below 1 MiB; give a bzImage", _LOADFLAGS)
        setup_bytes = ((header.setup_sects or DEFAULT_SETUP_SECTORS) + 1) * SECTOR_BYTES
        if setup_bytes >= image.size_bytes:
            words = f"its setup code of {setup_bytes} bytes leaves nothing for a kernel"
            raise image.error(f"{words} in a file of {image.size_bytes} bytes", _SETUP_SECTS)
        if not image.has(setup_bytes, header.syssize * 16):
            needed = setup_bytes + header.syssize * 16
            raise image.error(f"is cut short: {image.size_bytes} of {needed} bytes are there", _SYSSIZE)
        return cls(image, header_bytes, header, setup_bytes)

    @property
    def code_bytes(self) -> int:
        """How long the protected-mode part is."""
        return self.image.size_bytes - self.setup_bytes

    @property
    def has_64_bit_entry(self) -> bool:
        """Whether it is a 64-bit kernel, of a protocol that has an entry for one: older headers read as without."""
        return self.header.xloadflags.kernel_64

    @property
    def protocol(self) -> str:
        """The protocol that it would rather be entered by."""
        return "linux64" if self.has_64_bit_entry else "linux32"

    @property
    def command_line_limit(self) -> int:
        """The longest command line, without its NUL."""
        return self.header.cmdline_size or DEFAULT_COMMAND_LINE_LIMIT

    @property
    def initrd_limit(self) -> int:
        """The highest address that an initrd's last byte may have."""
        return self.header.initrd_addr_max or DEFAULT_INITRD_LIMIT

    def vmlinux(self, layout: Layout) -> ImageFile:
        """The ELF vmlinux that it packs, unpacked here; KernelImageError when that cannot be done."""
        header, image = self.header, self.image
        if not header.payload_length:
            words = f"boot protocol {_version(header)} does not say where the packed kernel lies"
            raise image.error(f"{words}; leave out `unpack`", _VERSION)
        if header.payload_offset + header.payload_length > self.code_bytes:
            raise image.error("its packed kernel reaches beyond the end of the file", _PAYLOAD_OFFSET)
        cap_bytes = min(MAX_UNPACKED_BYTES, sum(ram.size_bytes for ram in layout.ram))
        return unpack(image, self.setup_bytes + header.payload_offset, header.payload_length, cap_bytes)


def is_bzimage(image: ImageFile) -> bool:
    """Whether an image has the setup header of a Linux kernel."""
    return image.start(MAGIC_OFFSET + len(MAGIC)).startswith(MAGIC, MAGIC_OFFSET)


def load_bzimage(image: ImageFile, layout: Layout, protocol: str | None = None) -> Kernel:
    """The kernel in a bzImage, which will unpack itself; KernelImageError when it cannot boot in this RAM.

    `protocol` is `linux64` or `linux32`; None is the first of them that the kernel has.
    """
    bzimage = BzImage.read(image)
    chosen = protocol or bzimage.protocol
    _check_entry(bzimage, chosen)
    address, offset = _address(bzimage, layout)
    region = Region(address, max(bzimage.header.init_size, bzimage.code_bytes), "kernel")
    in_ram = layout.kernel <= region.start < layout.low_ram_end
    check_room(image, layout, region, _INIT_SIZE if in_ram and bzimage.header.init_size else offset)
    blob = Blob("kernel", region.start, image.content(bzimage.setup_bytes, bzimage.code_bytes), region.size_bytes)
    entry, mode = (region.start + ENTRY_64, "long") if chosen == "linux64" else (region.start, "protected")
    return _kernel(bzimage, Kernel(chosen, entry, (blob,), 0, 0, mode=mode))


def load_unpacked(image: ImageFile, layout: Layout, protocol: str | None = None) -> Kernel:
    """The vmlinux inside a bzImage, unpacked here and placed where its ELF headers say; KernelImageError.

    It has one entry: the 64-bit one, or in a kernel for i386 the 32-bit one.
    """
    bzimage = BzImage.read(image)
    if protocol == "linux32" and bzimage.has_64_bit_entry:
        words = "unpacked, it has only the 64-bit entry"
        raise image.error(f"{words}; leave out `unpack` to enter it by linux32", _XLOADFLAGS)
    if protocol == "linux64":
        _check_entry(bzimage, protocol)
    return _kernel(bzimage, elf.load_elf(bzimage.vmlinux(layout), layout))


def _header_bytes(image: ImageFile) -> bytes:
    """From 0x1f1 to where the jump over the header goes."""
    jump, length = image.read(_JUMP, 2)
    if jump != _SHORT_JUMP:
        raise image.error(f"has no jump over its setup header, but {jump:#04x}", _JUMP)
    end = min(setup_header.JUMP_END + length, setup_header.END_LIMIT)
    return image.read(setup_header.START, end - setup_header.START)


def _check_entry(bzimage: BzImage, protocol: str) -> None:
    """KernelImageError unless the kernel has the entry of that protocol."""
    header, image = bzimage.header, bzimage.image
    if header.version < OLDEST:
        words = f"boot protocol {_version(header)} has no command line that a loader could give"
        raise image.error(f"{words}; give a kernel of protocol 2.02 (Linux 2.4) or later", _VERSION)
    if protocol == "linux64" and header.version < WITH_64_BIT_ENTRY:
        words = f"boot protocol {_version(header)} has no 64-bit entry, only the 32-bit one (linux32)"
        raise image.error(f"{words}; give a 64-bit kernel of protocol 2.12 (Linux 3.8) or later", _VERSION)
    if protocol == "linux64" and not header.xloadflags.kernel_64:
        words = "is a kernel without a 64-bit entry, it has the 32-bit one (linux32)"
        raise image.error(f"{words}; give one built for x86_64", _XLOADFLAGS)


def _address(bzimage: BzImage, layout: Layout) -> tuple[int, int]:
    """Where the kernel will run, which is where it is loaded (boot.rst, "init_size"), and where the file says so."""
    header, alignment = bzimage.header, bzimage.header.kernel_alignment
    if not header.relocatable_kernel:
        if header.version >= WITH_PREF_ADDRESS:
            return header.pref_address, _PREF_ADDRESS
        return header.code32_start or DEFAULT_CODE32_START, _CODE32_START
    if alignment & (alignment - 1) or not PAGE_BYTES <= alignment <= GIB:
        raise bzimage.image.error(f"wants an alignment of {alignment:#x}, which cannot be", _ALIGNMENT)
    return align_up(max(header.pref_address, layout.kernel), alignment), _PREF_ADDRESS


def _kernel(bzimage: BzImage, kernel: Kernel) -> Kernel:
    """`kernel` with what the setup header says."""
    return attrs.evolve(
        kernel,
        command_line_limit=bzimage.command_line_limit,
        initrd_limit=bzimage.initrd_limit,
        setup_header=bzimage.header_bytes,
    )


def _version(header: SetupHeader) -> str:
    return f"{header.version >> 8}.{header.version & 0xFF:02}"
