"""What the emulated processor says of itself, less what is not there for a guest.

No local APIC is part of the engine, nor can it show the writes to the MSRs that some features are switched by; its
random numbers would be the host's, and no two runs the same. SVM, MONITOR and SYSENTER are claimed and do not work.
"""

from __future__ import annotations

import functools

from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor_unicorn.cpuid_hook import REGISTERS
from anyvisor_unicorn.engine import Engine
from anyvisor_unicorn.guests import CODE, guest

CPUID_HLT = bytes([0x0F, 0xA2, 0xF4])
INDEXED = {4: 4, 7: 1, 0xB: 2, 0xD: 10, 0x8000001D: 4}
"""Leaves that have subleaves, and how many are asked for."""
ABSENT = (
    Feature.APIC, Feature.X2APIC, Feature.TSC_DEADLINE, Feature.MONITOR, Feature.RDRAND, Feature.RDSEED, Feature.SVM,
    Feature.SEP, Feature.MCE, Feature.MCA,
)  # fmt: skip

MIRRORED = 0x0183_F3FF
"""The bits of leaf 0x80000001, EDX, that repeat those of leaf 1. AMD APM Vol. 3, E.4.2."""


def supported_cpuid(*, apic: bool = False) -> Cpuid:
    """The most that a guest can be given; with an `apic`, machines bring a device that is one."""
    table = native_cpuid().without(*(each for each in ABSENT if not (apic and each is Feature.APIC)))
    extended = table[0x80000001]
    return table.replace(extended.replace(edx=extended.edx & ~MIRRORED | table[1].edx & MIRRORED))


@functools.cache
def native_cpuid() -> Cpuid:
    """The table of the engine's own processor."""
    with guest(CPUID_HLT) as (engine, _):
        entries = [
            _ask(engine, leaf, subleaf, indexed=leaf in INDEXED)
            for first in (0, 0x80000000)
            for leaf in range(first, _ask(engine, first).eax + 1)
            for subleaf in range(INDEXED.get(leaf, 1))
        ]
    return Cpuid(tuple(entries))


def _ask(engine: Engine, leaf: int, subleaf: int = 0, *, indexed: bool = False) -> CpuidEntry:
    engine.write(REGISTERS[0], leaf)
    engine.write(REGISTERS[2], subleaf)
    engine.start(CODE, 0)
    eax, ebx, ecx, edx = (engine.read(register) & 0xFFFFFFFF for register in REGISTERS)
    return CpuidEntry(leaf, subleaf, eax, ebx, ecx, edx, indexed=indexed)
