"""The emulated machine's own kernel: unpacked, with the modules it has to load and the order to load them in.

Written without anyvisor's kernel loader, which the tests inside put to the test.

Some facts about it. A bzImage unpacks itself, which takes an emulated CPU five seconds for the XZ of Debian's
generic kernel; the ELF vmlinux inside boots by PVH at once. The package has no modules.dep (depmod writes
that when a kernel is installed), but each module names what it needs in its `.modinfo` section, as
NUL-terminated `depends=a,b`.
"""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from pathlib import Path

import attrs

from anyvisor.errors import KernelImageError

SECTOR_BYTES = 512
MODULE_SUFFIXES = (".ko", ".ko.xz")


def vmlinux(bzimage: bytes) -> bytes:
    """The ELF kernel inside a bzImage (Documentation/arch/x86/boot.rst, payload_offset)."""
    if bzimage[0x202:0x206] != b"HdrS":
        raise KernelImageError("not a bzImage: no HdrS at 0x202", offset=0x202)
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * SECTOR_BYTES + offset
    elf = _unpack(bzimage[start : start + length])
    if not elf.startswith(b"\x7fELF"):
        raise KernelImageError("the payload is not an ELF file", offset=start)
    return elf


def vmlinux_file(bzimage: Path) -> Path:
    """The ELF kernel as a file beside its bzImage, made once."""
    unpacked = bzimage.with_name(f"elf-{bzimage.name}")
    if not unpacked.exists():
        unfinished = unpacked.with_name(f"{unpacked.name}.{os.getpid()}")
        unfinished.write_bytes(vmlinux(bzimage.read_bytes()))
        unfinished.replace(unpacked)
    return unpacked


@attrs.frozen
class Module:
    """A kernel module: its name with underscores, and its ELF file's bytes."""

    name: str
    elf: bytes

    @property
    def depends(self) -> list[str]:
        """The modules that must be loaded before this one."""
        for entry in section(self.elf, ".modinfo").split(b"\0"):
            key, _, value = entry.partition(b"=")
            if key == b"depends":
                return [name for name in value.decode().split(",") if name]
        return []


def load_order(modules: Path, wanted: tuple[str, ...]) -> list[Module]:
    """The wanted modules and all that they need, in an order in which each can be loaded."""
    paths = {_name(path): path for path in modules.rglob("*.ko*") if path.name.endswith(MODULE_SUFFIXES)}
    done: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name in done:
            return
        if name not in paths:
            raise KernelImageError(f"no kernel module {name} below it", path=modules)
        module = Module(name, _read_module(paths[name]))
        for needed in module.depends:
            visit(needed.replace("-", "_"))
        done[name] = module

    for name in wanted:
        visit(name.replace("-", "_"))
    return list(done.values())


def section(elf: bytes, name: str) -> bytes:
    """The content of a 64-bit little-endian ELF file's section; empty if there is none of that name."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry_bytes, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + entry_bytes * index) for index in range(count)]
    names_offset = headers[names_index][4]
    for name_offset, _, _, _, offset, size_bytes in headers:
        start = names_offset + name_offset
        if elf[start : elf.index(b"\0", start)] == name.encode():
            return elf[offset : offset + size_bytes]
    return b""


def _name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _read_module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _unpack(payload: bytes) -> bytes:
    """The payload without its compression; what follows the packed stream (its unpacked size) is left out."""
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    raise KernelImageError(f"the payload is neither XZ nor gzip: it begins with {payload[:6].hex()}")
