"""Read symbols as text: a System.map, what `nm` prints, a copy of /proc/kallsyms.

Each line is an address in hexadecimal, a letter for the type, a name, and of a module's symbol the module:
`ffffffffc0402000 t virtio_init	[virtio]`. A System.map may be no more than a remark where the real one is (Debian's),
and who may not know the kernel's addresses is shown zeros in /proc/kallsyms (`kptr_restrict`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from anyvisor.errors import KernelImageError
from anyvisor.symbols import Row

BEGINNING_BYTES = 4096
_FIRST_LINE = re.compile(rb"\s*[0-9a-fA-F]{8,16} [a-zA-Z?] \S")
_LINE = re.compile(r"^(?:([0-9a-fA-F]{8,16})|[ ]{8,16}) ([a-zA-Z?]) (\S+)(?:[\t ]+\[(\S+)\])?[ \t\r]*$", re.MULTILINE)
_UNDEFINED = "Uu"
_REMARK = re.compile(r"^f{16} B (The real System\.map is in the .*)$", re.MULTILINE)


def looks_like(start: bytes) -> bool:
    """Whether the first bytes of a file are those of such a text."""
    return _FIRST_LINE.match(start) is not None


def rows(data: bytes, path: os.PathLike[str] | str) -> Iterator[Row]:
    """The symbols in a text. KernelImageError, with the line, for one that is something else or knows no address."""
    text = data.decode("utf-8", "replace")
    if remark := _REMARK.search(text):
        way_out = "give the kernel itself (/boot/vmlinuz), it has its symbols in it"
        raise KernelImageError(f'has no symbols, but says "{remark[1]}"; {way_out}', path=path)
    found = _LINE.findall(text)
    if len(found) != sum(map(bool, map(str.strip, text.split("\n")))):
        raise KernelImageError(f"is no System.map: {_first_bad_line(text)}", path=path)
    symbols = [(int(address, 16), kind, f"{name} [{module}]" if module else name)
               for address, kind, name, module in found if address and kind not in _UNDEFINED]  # fmt: skip
    if not any(address for address, _, _ in symbols):
        words = "has no address but 0: only root is shown a kernel's own, and that not where kernel.kptr_restrict is 2"
        raise KernelImageError(f"{words}; copy /proc/kallsyms as root", path=path)
    yield from symbols


def _first_bad_line(text: str) -> str:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not _LINE.fullmatch(line):
            return f"line {number} is not an address, a type and a name: {line[:60]!r}"
    return "it has no symbols"
