"""The text form of CPUID tables: what the tool `cpuid -r` writes and `cpuid -f` reads.

Each processor has a head line, `CPU 0:` (or `CPU:` for a single one), and a line for each leaf and subleaf:
`   0x00000001 0x00: eax=0x00a10f11 ebx=0x00020800 ecx=0xfffa3203 edx=0x178bfbff`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from anyvisor.errors import PlanError

_HEX = "0x([0-9a-f]{1,8})"
_ENTRY = re.compile(rf"\s*{_HEX} {_HEX}: eax={_HEX} ebx={_HEX} ecx={_HEX} edx={_HEX}\s*")


def dump_line(leaf: int, subleaf: int, registers: str) -> str:
    """The line of an entry; `registers` is its text `eax=0x... edx=0x...`."""
    return f"   {leaf:#010x} {subleaf:#04x}: {registers}"


def dumped_values(text: str, cpu: int) -> list[tuple[int, int, int, int, int, int]]:
    """Leaf, subleaf, EAX, EBX, ECX and EDX of each line of processor number `cpu`; lines with # are comments.

    PlanError when the text has no such processor, or a line that is something else.
    """
    values = [_values(line) for line in _section(text.splitlines(), cpu)]
    if not values:
        raise PlanError(f"CPUID dump: it has no entries for CPU {cpu}; `cpuid -r` writes such a text")
    return values


def _section(lines: Iterable[str], cpu: int) -> Iterator[str]:
    heads = {f"CPU {cpu}:", "CPU:"} if cpu == 0 else {f"CPU {cpu}:"}
    wanted = False
    for line in map(str.strip, lines):
        if line.startswith("CPU"):
            wanted = line in heads
        elif wanted and line and not line.startswith("#"):
            yield line


def _values(line: str) -> tuple[int, int, int, int, int, int]:
    match = _ENTRY.fullmatch(line)
    if match is None:
        raise PlanError(f"CPUID dump: {line[:80]!r} is not `0x<leaf> 0x<subleaf>: eax=0x... edx=0x...`")
    leaf, subleaf, eax, ebx, ecx, edx = (int(digits, 16) for digits in match.groups())
    return leaf, subleaf, eax, ebx, ecx, edx
