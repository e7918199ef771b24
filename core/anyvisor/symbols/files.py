"""Which kind of file symbols come in, and how they are got out of it."""

from __future__ import annotations

import os
from pathlib import Path

from anyvisor.architectures import ARCHITECTURES, part
from anyvisor.errors import KernelImageError
from anyvisor.image_file import ImageFile
from anyvisor.memory import GIB, MIB, format_size
from anyvisor.symbols import Symbols, kallsyms, system_map
from anyvisor.symbols.elf import MAGIC, SymbolElf

MAX_BYTES = 1 * GIB
"""The longest file, or part of one, that is read as a whole."""
MAX_TEXT_BYTES = 256 * MIB
"""The longest System.map; one of a big kernel has 15 MiB."""
_WAY_OUT = "give the kernel as the distribution installs it (/boot/vmlinuz), a vmlinux, or a System.map"


def load(path: os.PathLike[str] | str) -> Symbols:
    """The symbols in a file; see `Symbols.load`."""
    if _is_of_proc(path):
        return Symbols.of(system_map.rows(_content(path), path))
    image = ImageFile.open(path, "symbols")
    if image.start(len(MAGIC)) == MAGIC:
        return _of_elf(image)
    for architecture in ARCHITECTURES:
        if unpacked := part(architecture, "packed").vmlinux(image):
            return _of_elf(unpacked)
    if system_map.looks_like(image.start(system_map.BEGINNING_BYTES)):
        return Symbols.of(system_map.rows(image.read(0, _checked(image, MAX_TEXT_BYTES)), path))
    found = image.start(8).hex(" ")
    raise image.error(f"has no symbols: it is no kernel and no System.map (it begins {found}); {_WAY_OUT}")


def _of_elf(image: ImageFile) -> Symbols:
    """Those of the symbol table, or where it was stripped, those that Linux carries for itself."""
    elf = SymbolElf.read(image)
    if rows := list(elf.symbols()):
        return Symbols.of(rows)
    data = image.unpacked if image.unpacked is not None else image.read(0, _checked(image))
    found = kallsyms.decode(data, elf.bits // 8, elf.virtual_address)
    if found is None:
        words = "has no symbols: no symbol table, and none that Linux makes for itself (CONFIG_KALLSYMS)"
        raise image.error(f"{words}; give the System.map of its build, or the vmlinux of its debug package")
    return Symbols(found.addresses, found.names)


def _checked(image: ImageFile, max_bytes: int = MAX_BYTES) -> int:
    """How long the image is; KernelImageError if that is more than is read here."""
    if image.size_bytes > max_bytes:
        raise image.error(f"is longer than {format_size(max_bytes)}; {_WAY_OUT}")
    return image.size_bytes


def _is_of_proc(path: os.PathLike[str] | str) -> bool:
    """Whether it is a file such as /proc/kallsyms, which says that it is empty."""
    try:
        return Path(path).is_relative_to("/proc") and Path(path).is_file()
    except (OSError, ValueError):
        return False


def _content(path: os.PathLike[str] | str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_TEXT_BYTES)
    except OSError as error:
        raise KernelImageError(f"cannot read the symbols: {error.strerror}", path=path) from error
