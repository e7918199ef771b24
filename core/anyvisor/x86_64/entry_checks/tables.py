"""GDTR and IDTR: where the descriptor tables lie, and how long they are."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.x86_64.entry_checks.check import Broken, check
from anyvisor.x86_64.entry_checks.state import Known
from anyvisor.x86_64.state import DescriptorTable, Sregs

TABLES = "SDM Vol. 3, 27.3.1.3"
REGISTERS = {"GDTR": "gdt", "IDTR": "idt"}


def _tables(known: Known) -> Iterator[tuple[str, DescriptorTable]]:
    for register, name in REGISTERS.items():
        if (found := known.value(Sregs, name)) is not None:
            yield register, found


@check("tables-are-canonical", "The bases of GDTR and IDTR are canonical addresses.", intel=TABLES)
def canonical_tables(known: Known) -> Iterator[Broken]:
    """AMD's processors make them so."""
    for register, table in _tables(known):
        if not known.is_canonical(table.base):
            wanted = f"an address of {known.linear_address_bits} bits, the highest repeated upwards"
            yield Broken(register, "has a base that is not canonical", f"base {table.base:#x}", wanted, "correct it")


@check("table-limits-have-16-bits", "The limits of GDTR and IDTR have 16 bits.", intel=TABLES)
def table_limits(known: Known) -> Iterator[Broken]:
    """A limit is a table's size in bytes less one."""
    for register, table in _tables(known):
        if table.limit >> 16:
            remedy = "shorten the table; the limit is its size in bytes less one"
            yield Broken(
                register, "has a limit of more than 16 bits", f"limit {table.limit:#x}", "0xffff at most", remedy
            )
