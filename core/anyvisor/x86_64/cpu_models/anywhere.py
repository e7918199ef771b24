"""A host that has everything, to look at a model where no real host can give it.

Where the components of the XSAVE area lie is as on the maker's own processors, but for APX: there it has the place of
MPX, which no processor has beside it, and here it is behind all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.cpu_models.missing import FEATURE_REGISTERS
from anyvisor.x86_64.cpu_models.template import HOST, Template
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.cpuid_topology import AMD_VENDORS
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.leaves import Leaf

Layout = Mapping[int, tuple[int, int, int]]
"""Components of the XSAVE area: size, offset, and ECX of leaf 0xD."""
ANY: Layout = {2: (256, 576, 0), 11: (16, 0, 1), 12: (24, 0, 1), 15: (808, 0, 1)}
INTEL: Layout = {
    **ANY, 3: (64, 960, 0), 4: (64, 1024, 0), 5: (64, 1088, 0), 6: (512, 1152, 0), 7: (1024, 1664, 0), 9: (8, 2688, 0),
    17: (64, 2752, 2), 18: (8192, 2816, 6), 19: (128, 11008, 0),
}  # fmt: skip
AMD: Layout = {**ANY, 5: (64, 832, 0), 6: (512, 896, 0), 7: (1024, 1408, 0), 9: (8, 2432, 0)}
LAST_LEAF, LAST_EXTENDED_LEAF = 0x24, 0x8000_0026
U32 = (1 << 32) - 1


def host_for(template: Template) -> HostFacts:
    """Facts of a host that has all that a template asks for; of no hypervisor, so none shows itself to the guest."""
    bits = max(FACTS.physical_address_bits, template.physical_bits or 0)
    table = _table(FACTS.supported_state(Cpuid), None if template.vendor == HOST else template.vendor)
    sizes = table[Leaf.ADDRESS_SIZES]
    return attrs.evolve(
        FACTS,
        backend="none",
        capabilities=FACTS.capabilities | {Capability.TSC_DEADLINE},
        supported=(table.replace(sizes.replace(eax=sizes.eax & ~0xFF | bits)),),
        physical_address_bits=bits,
    )


def _table(start: Cpuid, vendor: str | None) -> Cpuid:
    layout = AMD if vendor in AMD_VENDORS else INTEL
    table = start.replace(
        start[Leaf.VENDOR].replace(eax=LAST_LEAF), start[Leaf.EXTENDED].replace(eax=LAST_EXTENDED_LEAF)
    )
    return table.replace(*_features(table), *_xsave(layout)).without(Feature.HTT)


def _features(table: Cpuid) -> Iterator[CpuidEntry]:
    for (leaf, subleaf), registers in FEATURE_REGISTERS.items():
        if leaf not in (Leaf.KVM_FEATURES, Leaf.XSAVE):
            yield table[leaf, subleaf].replace(**dict.fromkeys(registers, U32))


def _xsave(layout: Layout) -> Iterator[CpuidEntry]:
    user = sum(1 << number for number, (_, offset, _) in layout.items() if offset) | 0b11
    supervisor = sum(1 << number for number, (_, offset, _) in layout.items() if not offset)
    size = max(offset + size for size, offset, _ in layout.values())
    yield CpuidEntry(Leaf.XSAVE, 0, eax=user, ebx=size, ecx=size)
    yield CpuidEntry(Leaf.XSAVE, 1, eax=U32, ebx=size, ecx=supervisor)
    for number, (size, offset, ecx) in sorted(layout.items()):
        yield CpuidEntry(Leaf.XSAVE, number, eax=size, ebx=offset, ecx=ecx)
