"""Tables that come as text: those of processors by `cpuid -r`, and those of ACPI by `acpidump`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from anyvisor.errors import PlanError
from anyvisor.x86_64.cpuid import Cpuid

_CPU = re.compile(r"^\s*CPU(?: (\d{1,9}))?:\s*$", re.MULTILINE)
_CPUID_LINE = re.compile(rb"^\s*0x[0-9a-f]{8} 0x[0-9a-f]{2,8}: eax=", re.MULTILINE)
_TABLE = re.compile(r"^(\S{4}) @ 0x[0-9A-Fa-f]+\s*$", re.MULTILINE)
_BYTES = re.compile(r"^\s+([0-9A-Fa-f]{4,}): ((?:[0-9A-Fa-f]{2} ){1,16})")
BEGINNING = 4096
"""As far as is looked for what marks a text."""


def is_cpuid_dump(data: bytes) -> bool:
    """Whether the bytes are a text of `cpuid -r`."""
    return _CPUID_LINE.search(data[:BEGINNING]) is not None


def cpuid_tables(data: bytes) -> dict[int, Cpuid]:
    """The table of each processor by its number; PlanError when the text is something else, or names one twice."""
    text = data.decode("ascii", "replace")
    heads = list(_CPU.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    tables: dict[int, Cpuid] = {}
    for head, end in zip(heads, ends, strict=False):
        number = int(head[1] or 0)
        if number in tables:
            raise PlanError(f"CPUID dump: CPU {number} at offset {head.start():#x} is there a second time")
        body = text[head.end() : end]
        tables[number] = Cpuid.from_raw_dump(f"CPU {number}:\n{body}", number)
    if not tables:
        raise PlanError("CPUID dump: there is no line `CPU 0:` in it; `cpuid -r` writes such a text")
    return tables


def is_acpidump(data: bytes) -> bool:
    """Whether the bytes are a text of `acpidump`."""
    return _TABLE.search(data[:BEGINNING].decode("ascii", "replace")) is not None


def acpidump_tables(data: bytes) -> list[bytes]:
    """The bytes of each table in a text of `acpidump`; PlanError says on which line it is broken."""
    found: list[bytearray] = []
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        if _TABLE.match(line):
            found.append(bytearray())
        elif match := _BYTES.match(f"{line} "):
            if not found or int(match[1], 16) != len(found[-1]):
                raise PlanError(f"acpidump text, line {number}: its offset {match[1]} is not where the table goes on")
            found[-1] += bytes.fromhex(match[2])
    return list(_whole(found))


def _whole(tables: list[bytearray]) -> Iterator[bytes]:
    for number, table in enumerate(tables, 1):
        if not table:
            raise PlanError(f"acpidump text: table {number} has no bytes")
        yield bytes(table)
