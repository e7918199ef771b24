"""CPUID: what the table says is what the guest is told."""

from __future__ import annotations

import struct

from anyvisor.errors import Unsupported
from anyvisor.exits import Halted
from anyvisor.facts import HostFacts
from anyvisor.hypervisor import Hypervisor
from anyvisor.testing.bench import DATA
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.guests import by_width, in_every_mode
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry

BRAND = CpuidEntry(0x80000003, 0, 0x61626364, 0x92345678, 0x0BADCAFE, 0xFEDCBA98)
"""A leaf that is text for people: nothing is derived of it."""
FIRST, SECOND = (
    CpuidEntry(0x40000010, 0, 0x11111111, 0x22222222, 0x33333333, 0x84444444, indexed=True),
    CpuidEntry(0x40000010, 1, 0x95555555, 0x66666666, 0x77777777, 0x88888888, indexed=True),
)
"""A leaf with subleaves, in the range that is a hypervisor's own."""
ANSWERS = DATA + 0x100

# fmt: off
ASK = by_width(
    bytes([0x66, 0xAD,              # again: lodsd
           0x66, 0x89, 0xC1,        # mov ecx, eax
           0x66, 0xAD,              # lodsd
           0x0F, 0xA2,              # cpuid
           0x66, 0xAB,              # stosd
           0x66, 0x93, 0x66, 0xAB,  # xchg eax, ebx; stosd
           0x66, 0x91, 0x66, 0xAB,  # xchg eax, ecx; stosd
           0x66, 0x92, 0x66, 0xAB,  # xchg eax, edx; stosd
           0x66, 0x83, 0xED, 0x01,  # sub ebp, 1
           0x75, 0xE3,              # jnz again
           0xF4]),                  # hlt
    bytes([0xAD,              # again: lodsd
           0x89, 0xC1,        # mov ecx, eax
           0xAD,              # lodsd
           0x0F, 0xA2,        # cpuid
           0xAB,              # stosd
           0x93, 0xAB,        # xchg ebx, eax; stosd
           0x91, 0xAB,        # xchg ecx, eax; stosd
           0x92, 0xAB,        # xchg edx, eax; stosd
           0x83, 0xED, 0x01,  # sub ebp, 1
           0x75, 0xEE,        # jnz again
           0xF4]))            # hlt
# fmt: on


def offered(facts: HostFacts) -> Cpuid:
    """The table that the backend offers; an empty one where it says nothing."""
    try:
        return facts.supported_state(Cpuid)
    except Unsupported:
        return Cpuid()


@needs(architecture="x86_64", states=(Cpuid,))
class CpuidContract(Contract):
    """The CPUID table as the guest sees it."""

    @in_every_mode
    def test_the_guest_is_told_what_the_table_says(self, bench: MakeBench, hypervisor: Hypervisor, mode: str) -> None:
        """All four registers of a leaf, with any ECX where the leaf is not indexed, and by subleaf where it is."""
        asked = [(BRAND, 0), (BRAND, 5), (FIRST, 0), (SECOND, 1)]
        made = bench()
        made.vcpu.put(offered(hypervisor.facts).drop(0x40000010).replace(BRAND, FIRST, SECOND))
        questions = [(subleaf, entry.leaf) for entry, subleaf in asked]
        made.memory.write(DATA, b"".join(struct.pack("<II", *each) for each in questions))
        made.enter(ASK, mode, rsi=DATA, rdi=ANSWERS, rbp=len(asked))
        assert made.run() == Halted()
        for number, (entry, subleaf) in enumerate(asked):
            answer = struct.unpack("<4I", made.memory.read(ANSWERS + 16 * number, 16))
            told = [hex(each) for each in answer]
            assert told == [hex(each) for each in entry.registers], f"leaf {entry.leaf:#x}, ECX {subleaf}"
