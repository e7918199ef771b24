"""Facts of a plain x86_64 machine, for planning a boot where no hypervisor is at hand.

The processor is the least that a 64-bit Linux runs on (x86-64-v1 of the psABI) with an APIC that has x2APIC mode, so
that machines of any size can be planned; the interrupt chips and the timer are the hypervisor's. A plan made with
these facts runs on any backend that has as much.
"""

from __future__ import annotations

from anyvisor.codec import name_of
from anyvisor.config import MAX_VCPUS
from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.chips import Clock, Irqchip, Pit
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.modes import MODES
from anyvisor.x86_64.state import VCPU_STATES, Fpu

PHYSICAL_ADDRESS_BITS = 46

_FEATURES = (
    Feature.FPU, Feature.VME, Feature.DE, Feature.PSE, Feature.TSC, Feature.MSR, Feature.PAE, Feature.MCE, Feature.CX8,
    Feature.APIC, Feature.SEP, Feature.MTRR, Feature.PGE, Feature.MCA, Feature.CMOV, Feature.PAT, Feature.PSE36,
    Feature.CLFSH, Feature.MMX, Feature.FXSR, Feature.SSE, Feature.SSE2, Feature.SYSCALL, Feature.NX, Feature.LM,
    Feature.X2APIC,
)  # fmt: skip


def _registers(text: bytes) -> tuple[int, int, int, int]:
    words = [int.from_bytes(text[i : i + 4], "little") for i in range(0, 16, 4)]
    return words[0], words[1], words[2], words[3]


def _cpuid() -> Cpuid:
    vendor = b"GenuineIntel"
    ebx, edx, ecx, _ = _registers(vendor.ljust(16, b"\0"))
    brand = b"anyvisor generic x86-64".ljust(48, b"\0")
    entries = [
        CpuidEntry(0, eax=0xB, ebx=ebx, ecx=ecx, edx=edx),
        CpuidEntry(1, eax=0x6F1, ebx=8 << 8),  # family 6 model 15; CLFLUSH line of 8 * 8 bytes
        CpuidEntry(0x80000000, eax=0x80000008),
        CpuidEntry(0x80000001),
        *(CpuidEntry(0x80000002 + i, 0, *_registers(brand[16 * i : 16 * i + 16])) for i in range(3)),
        CpuidEntry(0x80000008, eax=48 << 8 | PHYSICAL_ADDRESS_BITS),  # linear and physical address bits
    ]
    return Cpuid(tuple(entries)).with_(*_FEATURES)


FACTS = HostFacts(
    backend="none",
    architecture="x86_64",
    capabilities=frozenset(
        {
            Capability.IRQCHIP,
            Capability.PIT,
            Capability.X2APIC,
            Capability.NATIVE,
            Capability.FULL_SYSTEM,
            Capability.FULL_PROCESSOR,
            Capability.DETERMINISTIC,
        }
    ),
    states=tuple(name_of(kind) for kind in (*VCPU_STATES, Fpu, Irqchip, Pit, Clock)),
    modes=MODES,
    supported=(_cpuid(),),
    max_vcpus=MAX_VCPUS,
    recommended_vcpus=MAX_VCPUS,
    max_memory_slots=32,
    physical_address_bits=PHYSICAL_ADDRESS_BITS,
    notes=("planned with generic facts: no hypervisor was asked",),
)
