"""MSRs: the guest reads what was put, `get` what the guest wrote, and a list is written to its end or refused."""

from __future__ import annotations

import struct

from anyvisor.errors import AnyvisorError
from anyvisor.exits import Halted
from anyvisor.testing.bench import DATA, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.entry import give_features
from anyvisor.testing.x86_64.guests import by_width, in_every_mode
from anyvisor.x86_64.modes import LONG, MODES
from anyvisor.x86_64.msr_index import Msr, msr_name
from anyvisor.x86_64.msrs import Msrs

ANSWERS = DATA + 0x400
VALUES = Msrs.of(
    {
        Msr.SYSENTER_CS: 0x1238,
        Msr.SYSENTER_ESP: 0x89ABCDE0,
        Msr.SYSENTER_EIP: 0xFEDCBA98,
        Msr.PAT: 0x00010406_00070106,
        Msr.STAR: 0x00230010_00000000,
        Msr.LSTAR: 0xFFFF8000_12345678,
        Msr.FMASK: 0x00047700,
        Msr.KERNEL_GS_BASE: 0xFFFF8000_87654320,
    }
)
"""What every processor with long mode has, and nothing else depends on."""
IMPOSSIBLE = 0x4B4D5B7F
"""An MSR that no processor has."""

# fmt: off
READ = by_width(
    bytes([0x66, 0xAD,                    # again: lodsd
           0x66, 0x89, 0xC1,              # mov ecx, eax
           0x0F, 0x32,                    # rdmsr
           0x66, 0xAB,                    # stosd
           0x66, 0x89, 0xD0, 0x66, 0xAB,  # mov eax, edx; stosd
           0x66, 0x83, 0xED, 0x01,        # sub ebp, 1
           0x75, 0xEC,                    # jnz again
           0xF4]),                        # hlt
    bytes([0xAD,              # again: lodsd
           0x89, 0xC1,        # mov ecx, eax
           0x0F, 0x32,        # rdmsr
           0xAB,              # stosd
           0x89, 0xD0, 0xAB,  # mov eax, edx; stosd
           0x83, 0xED, 0x01,  # sub ebp, 1
           0x75, 0xF2,        # jnz again
           0xF4]))            # hlt

WRITE = by_width(
    bytes([0x66, 0xAD,              # again: lodsd
           0x66, 0x89, 0xC1,        # mov ecx, eax
           0x66, 0xAD,              # lodsd
           0x66, 0x89, 0xC3,        # mov ebx, eax
           0x66, 0xAD,              # lodsd
           0x66, 0x89, 0xC2,        # mov edx, eax
           0x66, 0x89, 0xD8,        # mov eax, ebx
           0x0F, 0x30,              # wrmsr
           0x66, 0x83, 0xED, 0x01,  # sub ebp, 1
           0x75, 0xE6,              # jnz again
           0xF4]),                  # hlt
    bytes([0xAD,              # again: lodsd
           0x89, 0xC1,        # mov ecx, eax
           0xAD,              # lodsd
           0x89, 0xC3,        # mov ebx, eax
           0xAD,              # lodsd
           0x89, 0xC2,        # mov edx, eax
           0x89, 0xD8,        # mov eax, ebx
           0x0F, 0x30,        # wrmsr
           0x83, 0xED, 0x01,  # sub ebp, 1
           0x75, 0xEE,        # jnz again
           0xF4]))            # hlt
# fmt: on


def names_and_values(msrs: Msrs) -> dict[str, str]:
    """For a comparison that can be read."""
    return {each.name: hex(each.value) for each in msrs}


def as_the_guest_reads(made: Bench, msrs: Msrs, mode: str) -> Msrs:
    """Those MSRs with the values that RDMSR gives in the guest."""
    made.memory.write(DATA, b"".join(struct.pack("<I", each.index) for each in msrs))
    made.enter(READ, mode, rsi=DATA, rdi=ANSWERS, rbp=len(msrs))
    assert made.run() == Halted(), f"the guest did not come to its end reading {', '.join(names_and_values(msrs))}"
    values = struct.unpack(f"<{len(msrs)}Q", made.memory.read(ANSWERS, 8 * len(msrs)))
    return Msrs.of({each.index: value for each, value in zip(msrs, values, strict=True)})


@needs(architecture="x86_64", states=(Msrs,))
class MsrsContract(Contract):
    """`Msrs` from both sides."""

    @in_every_mode
    def test_the_guest_reads_the_msrs_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """RDMSR gives each of the MSRs the value of its own, all 64 bits of it."""
        made = bench()
        give_features(made)
        made.vcpu.put(VALUES)
        found = as_the_guest_reads(made, VALUES, mode)
        assert names_and_values(found) == names_and_values(VALUES)

    @in_every_mode
    def test_get_gives_the_msrs_that_the_guest_has_written(self, bench: MakeBench, mode: str) -> None:
        """WRMSR in the guest is what `get(Msrs)` has afterwards."""
        made = bench()
        give_features(made)
        made.memory.write(DATA, b"".join(struct.pack("<IQ", each.index, each.value) for each in VALUES))
        made.enter(WRITE, mode, rsi=DATA, rbp=len(VALUES))
        assert made.run() == Halted()
        got = made.vcpu.get(Msrs)
        found = Msrs(tuple(each for each in got if each.index in VALUES))
        assert dict(sorted(names_and_values(found).items())) == dict(sorted(names_and_values(VALUES).items()))

    def test_a_list_with_an_impossible_msr_is_refused_by_name_or_all_others_are_set(self, bench: MakeBench) -> None:
        """What stops in the middle of a list must say so: an error that names the MSR, or the rest is written, too.

        A hypervisor that is given many at once may only return how many it took (KVM does).
        """
        made = bench()
        give_features(made)
        first, *rest = VALUES
        mixed = Msrs.of({first.index: first.value, IMPOSSIBLE: 1} | {each.index: each.value for each in rest})
        try:
            made.vcpu.put(mixed)
        except AnyvisorError as error:
            name = msr_name(IMPOSSIBLE)
            assert name in str(error) or f"{IMPOSSIBLE:#x}" in str(error).lower(), "the error must name the MSR"
            return
        mode = next(mode for mode in reversed(MODES) if mode in (*made.facts.modes, LONG))
        found = as_the_guest_reads(made, VALUES, mode)
        assert names_and_values(found) == names_and_values(VALUES), (
            f"put(Msrs) took a list with {msr_name(IMPOSSIBLE)} in it and said nothing, and not all the others are set"
        )
