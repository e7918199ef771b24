"""A CPUID table in words, section by section: what `anyvisor cpuid show` prints."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.x86_64.cpu_models.missing import FEATURE_REGISTERS, MIRRORED
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.describe_processors import Levels, caches
from anyvisor.x86_64.features import BY_PLACE, EDX, Register
from anyvisor.x86_64.leaves import Leaf

COMPONENTS = {
    0: "x87", 1: "SSE", 2: "AVX", 3: "MPX bounds", 4: "MPX configuration", 5: "AVX-512 masks",
    6: "AVX-512 upper halves", 7: "AVX-512 registers 16-31", 8: "PT", 9: "PKRU", 11: "CET user", 12: "CET supervisor",
    13: "HDC", 14: "UINTR", 15: "LBR", 16: "HWP", 17: "AMX configuration", 18: "AMX tiles", 19: "APX",
}  # fmt: skip
"""Components of the XSAVE area by number; SDM Vol. 1, 13.1."""


def sections(cpuid: Cpuid) -> Iterator[tuple[str, list[str]]]:
    """Titles and lines, in an order that reads well; sections with nothing to say are left out."""
    found = (
        ("Processor", _processor(cpuid)),
        ("Features", features(cpuid)),
        ("XSAVE area", _xsave(cpuid)),
        ("Caches", [line.removeprefix("cache: ") for line in caches(cpuid)]),
        ("Topology", _topology(cpuid)),
        ("Hypervisor", _hypervisor(cpuid)),
    )
    for title, lines in found:
        if lines := list(lines):
            yield title, lines


def _processor(cpuid: Cpuid) -> Iterator[str]:
    yield f"{cpuid.vendor or 'no vendor'}, family {cpuid.family}, model {cpuid.model}, stepping {cpuid.stepping}"
    yield f"brand: {cpuid.brand or '(none)'}"
    linear = cpuid[Leaf.ADDRESS_SIZES].eax >> 8 & 0xFF
    yield f"addresses: {cpuid.physical_address_bits} bits physical, {linear} bits linear"
    yield f"leaves: up to {cpuid.max_leaf:#x} and {cpuid.max_extended_leaf:#x}, {len(cpuid)} entries"


def features(cpuid: Cpuid) -> Iterator[str]:
    """The features by name, a line a register; bits that have no name here by their number."""
    for (leaf, subleaf), registers in FEATURE_REGISTERS.items():
        entry = cpuid[leaf, subleaf]
        for register in registers:
            if names := list(_names(entry, register)):
                part = f"/{subleaf}" if subleaf else ""
                yield f"{leaf:#x}{part} {register.upper()}: {' '.join(names)}"


def _names(entry: CpuidEntry, register: Register) -> Iterator[str]:
    value = getattr(entry, register)
    if (entry.leaf, register) == (Leaf.EXTENDED_PROCESSOR, EDX):
        value &= ~MIRRORED
    for position in range(value.bit_length()):
        if value >> position & 1:
            feature = BY_PLACE.get((entry.leaf, entry.subleaf, register, position))
            yield feature.name.lower() if feature else f"bit-{position}"


def _xsave(cpuid: Cpuid) -> Iterator[str]:
    head = cpuid[Leaf.XSAVE]
    claimed = head.eax | head.edx << 32
    for number in range(claimed.bit_length()):
        if claimed >> number & 1:
            entry = cpuid[Leaf.XSAVE, number]
            where = f"{entry.eax} bytes at {entry.ebx:#x}" if number >= 2 else "in the legacy part"
            yield f"{COMPONENTS.get(number, f'component {number}')}: {where}"
    if claimed:
        yield f"{head.ecx} bytes in all"


def _topology(cpuid: Cpuid) -> Iterator[str]:
    yield f"APIC id {cpuid.apic_id}"
    levels = Levels.of(cpuid)
    if levels is not None:
        low = 0
        for name, end in levels.fields:
            yield f"{name}: bits {low}-{end - 1} of the APIC id" if end > low else f"{name}: one, no bit of the APIC id"
            low = end


def _hypervisor(cpuid: Cpuid) -> Iterator[str]:
    if not cpuid.hypervisor:
        return
    yield f"{cpuid.hypervisor}, leaves up to {cpuid[Leaf.HYPERVISOR].eax:#x}"
    if timing := cpuid.get(Leaf.TIMING):
        yield f"TSC {timing.eax / 1000:.3f} MHz, APIC timer {timing.ebx / 1000:.3f} MHz"


def differences(before: Cpuid, after: Cpuid) -> list[str]:
    """What `after` changes, a line each: `+AVX2`, `-PCID`, a register's two values.

    An entry of zeros is the same as none, and the name of the processor is one line.
    """
    lines = _without_names(_with_room(before, after)).diff(_without_names(_with_room(after, before)))
    brand = [] if before.brand == after.brand else [f"brand: {before.brand or '(none)'} -> {after.brand or '(none)'}"]
    return brand + lines


def _with_room(table: Cpuid, other: Cpuid) -> Cpuid:
    """The table with an entry of zeros for every one that only the other has."""
    empty = (CpuidEntry(each.leaf, each.subleaf, indexed=each.indexed) for each in other)
    return table.replace(*(each for each in empty if table.get(each.leaf, each.subleaf) is None))


def _without_names(table: Cpuid) -> Cpuid:
    return table.drop(*(Leaf.BRAND + i for i in range(3)))
