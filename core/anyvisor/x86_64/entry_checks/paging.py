"""CR3, and the four entries that a processor loads from where it leads when paging has three levels (PAE).

Some facts about PDPTEs (SDM Vol. 3, 4.4.1). With PAE paging outside long mode the top table has four entries of eight
bytes, and Intel's processors keep them in registers: MOV to CR3 loads these from memory, and so does VM entry. AMD's
read them when they need them. The registers are in none of the states that are known here, so the memory at CR3 is
looked at, where it is at hand. Of a guest that runs that says little, since it may write there whenever it likes; of
one that was refused it is what the hypervisor has loaded.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from anyvisor.errors import AnyvisorError
from anyvisor.x86_64.entry_checks.check import Broken, check
from anyvisor.x86_64.entry_checks.state import Known
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.paging_modes import MOST_ADDRESS_BITS, PAE, PRESENT
from anyvisor.x86_64.state import Sregs

LAM_BITS = 0b11 << 61


@check(
    "cr3-is-an-address",
    "CR3 has no bits beyond those of physical addresses.",
    intel="SDM Vol. 3, 27.3.1.1",
    amd="APM Vol. 2, 15.5.1",
)
def cr3_width(known: Known) -> Iterator[Broken]:
    """Whether or not paging is on. Linear-address masking has two bits at the top."""
    cr3 = known.value(Sregs, "cr3")
    if cr3 is None:
        return
    bits = known.physical_address_bits
    allowed = (1 << bits) - 1 | (LAM_BITS if known.cpuid and known.cpuid.has(Feature.LAM) else 0)
    if cr3 & ~allowed:
        remedy = "put the page tables where the processor can reach them"
        yield Broken("CR3", f"has bits beyond {bits}", f"CR3 {cr3:#x}", f"bits 63-{bits} clear", remedy)


@check("pdptes-are-valid", "With PAE paging, no present PDPTE has reserved bits set.", intel="SDM Vol. 3, 27.3.1.6")
def pdptes(known: Known) -> Iterator[Broken]:
    """Looked at where memory can be read. What lies in no RAM is another matter."""
    cr0, cr3, cr4, efer = known.cr0, known.value(Sregs, "cr3"), known.cr4, known.efer
    if known.read is None or cr0 is None or cr3 is None or cr4 is None or efer is None:
        return
    if not (cr0.pg and cr4.pae) or efer.lma:
        return
    paging = attrs.evolve(PAE, physical_bits=min(known.physical_address_bits, MOST_ADDRESS_BITS))
    try:
        table = known.read(cr3 & paging.root_mask, paging.table_bytes(paging.levels))
    except AnyvisorError:
        return
    since = " in memory, from where MOV to CR3 and VM entry load it" if known.live else ""
    for number, entry in enumerate(paging.entries(table, paging.levels)):
        if entry & PRESENT and (wrong := paging.refused(paging.levels, entry)):
            problem = f"PDPTE {number} has reserved bits {wrong:#x} set{since}"
            yield Broken(
                "CR3", problem, f"PDPTE {number} {entry:#x}", "them clear", "correct the table that CR3 leads to"
            )
