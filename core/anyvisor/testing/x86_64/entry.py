"""Putting a vCPU at the first instruction of a tiny guest, in real, protected or long mode."""

from __future__ import annotations

import struct
from contextlib import suppress

from anyvisor.errors import Unsupported
from anyvisor.hypervisor import Vcpu
from anyvisor.testing.bench import STACK, TABLES, Bench
from anyvisor.x86_64 import modes
from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.state import Regs, Sregs

PML4, PDPT, DIRECTORY = TABLES, TABLES + 0x1000, TABLES + 0x2000
PRESENT_WRITABLE, LARGE = 3, 0x80
"""Bits of a page-table entry. SDM Vol. 3, 4.5."""
WORD_BYTES = {modes.REAL: 2, modes.PROTECTED: 4, modes.LONG: 8}
"""How much a PUSH pushes, by mode."""


def enter(bench: Bench, vcpu: Vcpu, mode: str, *, rip: int, **registers: int) -> None:
    """Flat segments from 0, a stack, and in long mode the first GiB mapped to itself."""
    if mode == modes.LONG:
        map_first_gib(bench)
    vcpu.put(modes.enter(mode, vcpu.get(Sregs), page_table=PML4))
    fields = {"rsp": STACK, "rflags": Rflags(fixed=True), **registers}
    vcpu.put(Regs(rip=rip, **fields))


def map_first_gib(bench: Bench) -> None:
    """Page tables: an identity map in pages of 2 MiB."""
    bench.memory.write(PML4, struct.pack("<Q", PDPT | PRESENT_WRITABLE))
    map_gib(bench, 0, DIRECTORY)


def map_gib(bench: Bench, number: int, directory: int) -> None:
    """Map GiB `number` of the first 512 to itself, with a page directory in the page of RAM at `directory`."""
    bench.memory.write(PDPT + 8 * number, struct.pack("<Q", directory | PRESENT_WRITABLE))
    pages = (number << 30 | page << 21 | LARGE | PRESENT_WRITABLE for page in range(512))
    bench.memory.write(directory, struct.pack("<512Q", *pages))


def give_features(bench: Bench) -> None:
    """Let the boot processor have every feature that the backend offers, where it offers a CPUID table.

    Without one a guest may be refused what depends on a feature: EFER.LME, CR4.OSFXSR, XCR0.
    """
    with suppress(Unsupported):
        bench.vcpu.put(bench.facts.supported_state(Cpuid))


def pushed(bench: Bench, mode: str, count: int) -> list[int]:
    """The first words that the guest has pushed, the first first."""
    size_bytes = WORD_BYTES[mode]
    places = range(STACK - size_bytes, STACK - size_bytes * (count + 1), -size_bytes)
    return [int.from_bytes(bench.memory.read(place, size_bytes), "little") for place in places]
