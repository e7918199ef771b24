"""A machine's ACPI tables as one value, and their places in guest memory.

Some facts about how they hang together. The RSDP leads to the XSDT, which leads to every table but two: the DSDT and
the FACS are named by the FADT. So addresses stand in three places only, and they are filled in last, by `at`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import Region, align_up
from anyvisor.plan import Blob, FirmwareTables
from anyvisor.x86_64.acpi.facs import ALIGNMENT_BYTES, Facs
from anyvisor.x86_64.acpi.fadt import Fadt
from anyvisor.x86_64.acpi.rsdp import Rsdp
from anyvisor.x86_64.acpi.table import SystemTable
from anyvisor.x86_64.acpi.xsdt import Xsdt

T = TypeVar("T", bound="SystemTable | Facs")

TABLE_ALIGNMENT_BYTES = 16
BY_FADT = {"DSDT", "FACS"}
"""Signatures of the tables that the FADT leads to."""


@attrs.frozen
class AcpiTables:
    """All tables but RSDP and XSDT, in the order in which they lie in memory. Addresses in them do not matter yet."""

    tables: tuple[SystemTable | Facs, ...]

    def find(self, kind: type[T]) -> T | None:
        """The first table of that class; None when there is none."""
        return next((each for each in self.tables if isinstance(each, kind)), None)

    def named(self, signature: str) -> tuple[SystemTable | Facs, ...]:
        """Every table of that signature: `APIC`, `SSDT`."""
        return tuple(each for each in self.tables if each.signature == signature)

    def with_table(self, table: SystemTable | Facs) -> AcpiTables:
        """The same with that table in place of the first of its signature, or behind all others."""
        found = [index for index, each in enumerate(self.tables) if each.signature == table.signature]
        place = found[0] if found else len(self.tables)
        return AcpiTables((*self.tables[:place], table, *self.tables[place + 1 :]))

    def without(self, signature: str) -> AcpiTables:
        """The same without any table of that signature."""
        return AcpiTables(tuple(each for each in self.tables if each.signature != signature))

    def at(self, region: Region, rsdp: int) -> FirmwareTables:
        """The tables one after the other in a region, the RSDP at the address `rsdp`: a piece for each.

        PlanError when they do not fit, or the RSDP's address is no multiple of 16.
        """
        if rsdp % TABLE_ALIGNMENT_BYTES or rsdp < 0:
            where = f"at a multiple of {TABLE_ALIGNMENT_BYTES}"
            raise PlanError(f"RSDP at {rsdp:#x}: it must lie {where}; move it in anyvisor_memory_layout")
        root = Xsdt((0,) * sum(each.signature not in BY_FADT for each in self.tables))
        unlinked = sorted([root, *self.tables], key=lambda each: not isinstance(each, Facs))
        contents = [each.to_bytes() for each in unlinked]
        sizes = [(len(content), _alignment(each)) for content, each in zip(contents, unlinked, strict=True)]
        addresses = _places(sizes, region)
        pointer = Rsdp(xsdt=addresses[unlinked.index(root)])
        blobs = [Blob(pointer.name, rsdp, pointer.to_bytes())]
        linked = _linked(unlinked, addresses)
        for name, at, before, after, content in zip(_names(linked), addresses, unlinked, linked, contents, strict=True):
            blobs.append(Blob(name, at, content if after is before else after.to_bytes()))
        return FirmwareTables(rsdp, tuple(blobs))

    def describe(self) -> str:
        """Every table in words."""
        return "\n".join(each.describe() for each in self.tables)


def _alignment(table: SystemTable | Facs) -> int:
    return ALIGNMENT_BYTES if isinstance(table, Facs) else TABLE_ALIGNMENT_BYTES


def _places(sizes: Sequence[tuple[int, int]], region: Region) -> list[int]:
    """Where each of those sizes and alignments goes; PlanError when the region ends before they do."""
    addresses, end = [], region.start
    for size, alignment in sizes:
        addresses.append(align_up(end, alignment))
        end = addresses[-1] + size
    if end > region.end:
        words = f"{end - region.start} bytes do not fit in the {region.size_bytes} bytes of {region}"
        raise PlanError(f"ACPI tables: {words}; make it larger in anyvisor_memory_layout, or have fewer vCPUs")
    return addresses


def _linked(tables: Sequence[SystemTable | Facs], addresses: Sequence[int]) -> list[SystemTable | Facs]:
    """The tables with each other's addresses in them."""
    places = list(zip(tables, addresses, strict=True))
    by_fadt = {each.signature: address for each, address in places if each.signature in BY_FADT}
    listed = tuple(at for each, at in places if each.signature not in BY_FADT and not isinstance(each, Xsdt))
    if by_fadt and not any(isinstance(each, Fadt) for each in tables):
        raise PlanError(f"ACPI tables: nothing leads to the {' and '.join(sorted(by_fadt))}; add a FADT")
    return [_link(each, listed, by_fadt) for each in tables]


def _link(table: SystemTable | Facs, listed: tuple[int, ...], by_fadt: dict[str, int]) -> SystemTable | Facs:
    if isinstance(table, Fadt):
        return table.pointing(dsdt=by_fadt.get("DSDT", 0), facs=by_fadt.get("FACS", 0))
    return attrs.evolve(table, tables=listed) if isinstance(table, Xsdt) else table


def _names(tables: Sequence[SystemTable | Facs]) -> list[str]:
    """A name for each, numbered from the second of a kind on: `SSDT`, `SSDT 2`."""
    seen: Counter[str] = Counter()
    names = []
    for each in tables:
        seen[each.name] += 1
        names.append(each.name if seen[each.name] == 1 else f"{each.name} {seen[each.name]}")
    return names
