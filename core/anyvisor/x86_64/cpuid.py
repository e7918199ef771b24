"""The CPUID table: what a vCPU answers when its guest asks what processor it is on.

Some facts about CPUID. EAX picks a *leaf*: basic leaves count from 0, the makers' extended ones from
0x80000000, a hypervisor's own from 0x40000000. Register EAX of leaf 0 and of leaf 0x80000000 says which leaf
is the last of its range, and guests ask no further. In some leaves ECX picks a *subleaf* too; only entries
marked `indexed` look at it, all others answer the same for every ECX. A processor answers zeros for a leaf of
its range that it does not have, and so does `cpuid[leaf]`. SDM Vol. 2A, CPUID; APM Vol. 3, appendix E.

A few bits are not the table's to decide: OSXSAVE and OSPKE mirror CR4; the hypervisor sets them as it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from anyvisor.codec import named
from anyvisor.errors import PlanError, Unsupported
from anyvisor.states import VcpuState
from anyvisor.x86_64.cpuid_dump import dump_line, dumped_values
from anyvisor.x86_64.features import BY_PLACE, EAX, EBX, ECX, EDX, Feature, Register
from anyvisor.x86_64.leaves import INDEXED_LEAVES, Leaf, Signature

REGISTERS: tuple[Register, ...] = (EAX, EBX, ECX, EDX)


def _check_register(entry: CpuidEntry, attribute: attrs.Attribute[int], value: int) -> None:
    if not isinstance(value, int) or not 0 <= value < 1 << 32:
        leaf = f"{entry.leaf:#x}" if isinstance(entry.leaf, int) else repr(entry.leaf)
        raise PlanError(f"CPUID leaf {leaf}: {attribute.name}={value!r} is not a number of 32 bits")


@attrs.frozen
class CpuidEntry:
    """What CPUID answers for one leaf; `indexed` says that it does so only when ECX is `subleaf`."""

    leaf: int = attrs.field(validator=_check_register)
    subleaf: int = attrs.field(default=0, validator=_check_register)
    eax: int = attrs.field(default=0, validator=_check_register)
    ebx: int = attrs.field(default=0, validator=_check_register)
    ecx: int = attrs.field(default=0, validator=_check_register)
    edx: int = attrs.field(default=0, validator=_check_register)
    indexed: bool = attrs.field(default=attrs.Factory(lambda self: self.leaf in INDEXED_LEAVES, takes_self=True))

    @property
    def place(self) -> str:
        """Leaf and subleaf as the manuals write them: `0x1`, `0xb/1`."""
        return f"{self.leaf:#x}/{self.subleaf}" if self.indexed else f"{self.leaf:#x}"

    @property
    def registers(self) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX and EDX."""
        return self.eax, self.ebx, self.ecx, self.edx

    def replace(self, **changes: Any) -> CpuidEntry:
        """The same entry with some registers changed."""
        return attrs.evolve(self, **changes)

    def __str__(self) -> str:
        values = zip(REGISTERS, self.registers, strict=True)
        return " ".join(f"{name}={value:#010x}" for name, value in values)


def _entries(entries: Iterable[CpuidEntry]) -> tuple[CpuidEntry, ...]:
    return tuple(entries)


@named("x86_64.Cpuid")
@attrs.frozen(cache_hash=True)
class Cpuid(VcpuState):
    """The CPUID table of one vCPU. A value: what changes it returns a new table.

    `cpuid[0xB, 1]` is the entry of leaf 0xB, subleaf 1. Where the table has none, it is all zeros, and
    `cpuid.get(0xB, 1)` is None.
    """

    entries: tuple[CpuidEntry, ...] = attrs.field(default=(), converter=_entries)

    def get(self, leaf: int, subleaf: int = 0) -> CpuidEntry | None:
        """The entry that answers for `leaf` in EAX and `subleaf` in ECX, None when the table has none."""
        for each in self.entries:
            if each.leaf == leaf and (each.subleaf == subleaf or not each.indexed):
                return each
        return None

    def __getitem__(self, place: int | tuple[int, int]) -> CpuidEntry:
        """What CPUID answers: `cpuid[leaf]` or `cpuid[leaf, subleaf]`; zeros where the table has nothing."""
        leaf, subleaf = place if isinstance(place, tuple) else (place, 0)
        return self.get(leaf, subleaf) or CpuidEntry(leaf, subleaf)

    def __iter__(self) -> Iterator[CpuidEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def subleaves(self, leaf: int) -> tuple[CpuidEntry, ...]:
        """Every entry of a leaf."""
        return tuple(each for each in self.entries if each.leaf == leaf)

    def replace(self, *entries: CpuidEntry) -> Cpuid:
        """This table with `entries` in place of those for their leaf and subleaf, or added in order."""
        table = list(self.entries)
        for new in entries:
            old = self.get(new.leaf, new.subleaf)
            if old in table:
                table[table.index(old)] = new
            else:
                table.insert(_position(table, new), new)
        return Cpuid(tuple(table))

    def drop(self, *leaves: int) -> Cpuid:
        """This table without those leaves, all their subleaves included."""
        return Cpuid(tuple(each for each in self.entries if each.leaf not in leaves))

    def has(self, feature: Feature) -> bool:
        """Whether the table says that the processor can do that."""
        register: int = getattr(self[feature.leaf, feature.subleaf], feature.register)
        return bool(register >> feature.position & 1)

    def with_(self, *features: Feature) -> Cpuid:
        """This table with those features; Unsupported when it has no entry for the leaf that would say so."""
        table = self
        for feature in features:
            entry = table.get(feature.leaf, feature.subleaf)
            if entry is None:
                raise Unsupported(
                    f"CPUID feature {feature.name}: the table has no leaf for {feature.place}; "
                    f"add it with replace(CpuidEntry({feature.leaf:#x}, {feature.subleaf}))"
                )
            value = getattr(entry, feature.register) | 1 << feature.position
            table = table.replace(entry.replace(**{feature.register: value}))
        return table

    def without(self, *features: Feature) -> Cpuid:
        """This table without those features."""
        table = self
        for feature in filter(self.has, features):
            entry = table[feature.leaf, feature.subleaf]
            value = getattr(entry, feature.register) & ~(1 << feature.position)
            table = table.replace(entry.replace(**{feature.register: value}))
        return table

    @property
    def features(self) -> frozenset[Feature]:
        """Every feature by name that the table claims."""
        return frozenset(filter(self.has, Feature))

    @property
    def max_leaf(self) -> int:
        """The highest basic leaf that a guest may ask for."""
        return self[Leaf.VENDOR].eax

    @property
    def max_extended_leaf(self) -> int:
        """The highest extended leaf that a guest may ask for; 0 when there is none."""
        return self[Leaf.EXTENDED].eax

    @property
    def vendor(self) -> str:
        """The maker's twelve letters: `GenuineIntel`, `AuthenticAMD`."""
        entry = self[Leaf.VENDOR]
        return _text(entry.ebx, entry.edx, entry.ecx)

    @property
    def hypervisor(self) -> str:
        """The hypervisor's name for itself (`KVMKVMKVM`), empty when it does not show."""
        entry = self[Leaf.HYPERVISOR]
        return _text(entry.ebx, entry.ecx, entry.edx)

    @property
    def brand(self) -> str:
        """The processor's name in full, empty when the table has none."""
        return _text(*(value for i in range(3) for value in self[Leaf.BRAND + i].registers))

    @property
    def signature(self) -> Signature:
        """Family, model and stepping as leaf 1 codes them."""
        return Signature(self[Leaf.PROCESSOR].eax)

    @property
    def family(self) -> int:
        """The family in full: the extended family counts on from 15."""
        signature = self.signature
        return int(signature.family + (signature.extended_family if signature.family == 15 else 0))

    @property
    def model(self) -> int:
        """The model in full, extended model included where the family has one."""
        signature = self.signature
        extended = signature.extended_model if signature.family in {6, 15} else 0
        return int(extended << 4 | signature.model)

    @property
    def stepping(self) -> int:
        """The stepping."""
        return int(self.signature.stepping)

    @property
    def physical_address_bits(self) -> int:
        """The bits of a guest-physical address: as leaf 0x80000008 says, else 36 with PAE and 32 without."""
        return self[Leaf.ADDRESS_SIZES].eax & 0xFF or (36 if self.has(Feature.PAE) else 32)

    @property
    def apic_id(self) -> int:
        """The APIC id that the guest reads: from leaf 0xB where there is one, else the 8 bits of leaf 1."""
        topology = self[Leaf.TOPOLOGY]
        return topology.edx if topology.ebx else self[Leaf.PROCESSOR].ebx >> 24

    def diff(self, other: Cpuid) -> list[str]:
        """What `other` changes in this table, a line each: `+X2APIC`, `-PDCM`, or a register's two values."""
        before = {(each.leaf, each.subleaf): each for each in self.entries}
        after = {(each.leaf, each.subleaf): each for each in other.entries}
        places = sorted(before.keys() | after.keys())
        return [line for place in places for line in _changes(before.get(place), after.get(place))]

    def describe(self) -> str:
        """The processor in words: maker, model, address width, and the features by name."""
        words = ", ".join(sorted(each.name for each in self.features))
        maker = self.vendor or "no vendor"
        return "\n".join(
            [
                f"{maker}, family {self.family}, model {self.model}, stepping {self.stepping}",
                f"brand: {self.brand or '(none)'}",
                f"hypervisor: {self.hypervisor or '(none)'}",
                f"APIC id {self.apic_id}, {self.physical_address_bits}-bit physical addresses",
                f"{len(self)} entries",
                f"features: {words or '(none)'}",
            ]
        )

    def to_raw_dump(self, cpu: int = 0) -> str:
        """The table in the text form of `cpuid -r`, as processor number `cpu`; `cpuid -f` reads it."""
        lines = [dump_line(each.leaf, each.subleaf, str(each)) for each in self.entries]
        return "\n".join([f"CPU {cpu}:", *lines, ""])

    @classmethod
    def from_raw_dump(cls, text: str, cpu: int = 0) -> Cpuid:
        """Processor number `cpu` of a text that `cpuid -r` wrote; PlanError when it is something else."""
        return cls(tuple(CpuidEntry(*values) for values in dumped_values(text, cpu)))


def _text(*registers: int) -> str:
    """The characters in registers, four each, without the padding."""
    letters = b"".join(value.to_bytes(4, "little") for value in registers)
    return letters.rstrip(b"\0 ").lstrip().decode("latin-1")


def _position(table: list[CpuidEntry], new: CpuidEntry) -> int:
    """Where to add an entry: behind the last of its range that comes before it."""
    before = [
        i
        for i, each in enumerate(table)
        if each.leaf >> 16 == new.leaf >> 16 and (each.leaf, each.subleaf) < (new.leaf, new.subleaf)
    ]
    return before[-1] + 1 if before else len(table)


def _changes(before: CpuidEntry | None, after: CpuidEntry | None) -> Iterator[str]:
    if before == after:
        return
    if before is None or after is None:
        entry = before or after
        assert entry is not None
        yield f"{entry.place} {'removed' if before else 'added'}: {entry}"
        return
    if before.indexed != after.indexed:
        yield f"{before.place} is now {after.place}"
    for register in REGISTERS:
        yield from _register_changes(after, register, getattr(before, register), getattr(after, register))


def _register_changes(entry: CpuidEntry, register: Register, before: int, after: int) -> Iterator[str]:
    changed = unnamed = before ^ after
    for position in range(changed.bit_length()):
        feature = BY_PLACE.get((entry.leaf, entry.subleaf, register, position))
        if feature and changed >> position & 1:
            unnamed &= ~(1 << position)
            yield f"{'+' if after >> position & 1 else '-'}{feature.name}"
    if unnamed:
        yield f"{entry.place} {register.upper()}: {before:#010x} -> {after:#010x}"
