"""CPUID leaves by number, and the layout of the registers in which they answer with more than feature bits.

SDM Vol. 2A, CPUID; APM Vol. 3, appendix E. A field `..._less_one` holds one less than it counts.
"""

from __future__ import annotations

import enum

from anyvisor.bits import Bits, field


class Leaf(enum.IntEnum):
    """CPUID leaves by what they tell."""

    VENDOR = 0x0
    PROCESSOR = 0x1
    CACHES = 0x4
    POWER = 0x6
    STRUCTURED_FEATURES = 0x7
    PERFORMANCE_MONITORING = 0xA
    TOPOLOGY = 0xB
    XSAVE = 0xD
    TLBS = 0x18
    TOPOLOGY_V2 = 0x1F
    PERFORMANCE_MONITORING_V2 = 0x23
    HYPERVISOR = 0x4000_0000
    KVM_FEATURES = 0x4000_0001
    TIMING = 0x4000_0010
    """The TSC's speed and the local APIC timer's, in kHz; VMware's leaf, which other hypervisors took over."""
    EXTENDED = 0x8000_0000
    EXTENDED_PROCESSOR = 0x8000_0001
    BRAND = 0x8000_0002
    ADDRESS_SIZES = 0x8000_0008
    AMD_CACHES = 0x8000_001D
    AMD_TOPOLOGY = 0x8000_001E
    AMD_PERFORMANCE_MONITORING_V2 = 0x8000_0022
    AMD_TOPOLOGY_V2 = 0x8000_0026


INDEXED_LEAVES = frozenset(
    {0x4, 0x7, 0xB, 0xD, 0xF, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1B, 0x1D, 0x1E, 0x1F, 0x20, 0x23, 0x24}
    | {0x8000_001D, 0x8000_0020, 0x8000_0026}
)
"""The leaves in which ECX picks a subleaf."""


class Signature(Bits):
    """Leaf 1 EAX: which processor it is."""

    stepping = field(0, 4)
    model = field(4, 4)
    family = field(8, 4)
    extended_model = field(16, 4)
    extended_family = field(20, 8)


class ProcessorInfo(Bits):
    """Leaf 1 EBX; `clflush_size` is in units of 8 bytes."""

    brand_index = field(0, 8)
    clflush_size = field(8, 8)
    logical_processors = field(16, 8)
    initial_apic_id = field(24, 8)


class CacheInfo(Bits):
    """EAX of leaves 4 and 0x8000001D: one cache a subleaf, up to the first of type 0.

    AMD has no `cores_in_package_less_one`.
    """

    type = field(0, 5)
    level = field(5, 3)
    processors_sharing_less_one = field(14, 12)
    cores_in_package_less_one = field(26, 6)


class TlbInfo(Bits):
    """EDX of leaf 0x18: one TLB a subleaf; a subleaf of type 0 says nothing."""

    type = field(0, 5)
    level = field(5, 3)
    processors_sharing_less_one = field(14, 12)


class LevelType(enum.IntEnum):
    """What a subleaf of leaves 0xB and 0x1F tells about; NONE ends the list."""

    NONE = 0
    SMT = 1
    CORE = 2
    MODULE = 3
    TILE = 4
    DIE = 5


class AmdLevelType(enum.IntEnum):
    """What a subleaf of leaf 0x80000026 tells about; NONE ends the list.

    Where Intel names what is counted (SMT: the threads of a core), AMD names what they are in (CORE: the same threads).
    """

    NONE = 0
    CORE = 1
    COMPLEX = 2
    DIE = 3
    SOCKET = 4


class Level(Bits):
    """ECX of leaves 0xB, 0x1F and 0x80000026, whose types are `AmdLevelType`s."""

    number = field(0, 8)
    type = field(8, 8)


class AmdSizes(Bits):
    """Leaf 0x80000008 ECX: NC, and ApicIdSize: the APIC id's bits that tell a package's processors apart."""

    processors_in_package_less_one = field(0, 8)
    apic_id_bits = field(12, 4)
    performance_tsc_size = field(16, 2)


class AmdCore(Bits):
    """Leaf 0x8000001E EBX: which core of its package this is (a compute unit on family 15h)."""

    core_id = field(0, 8)
    threads_in_core_less_one = field(8, 8)


class AmdNode(Bits):
    """Leaf 0x8000001E ECX: the node, which is a die, and how many there are in a package."""

    node_id = field(0, 8)
    nodes_in_package_less_one = field(8, 3)
