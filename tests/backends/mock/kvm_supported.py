"""What KVM reports as supported (KVM_GET_SUPPORTED_CPUID), worked out from what a processor answers itself.

So the mock's hosts were made of which only a dump of the hardware was to be had. The rules are facts about KVM of
Linux 6.1 with nested virtualisation on; bits that it passes on are words here, leaf by leaf. What it does beyond that:
it emulates some (x2APIC, TSC_ADJUST, ARCH_CAPABILITIES, on Intel UMIP), shows one maker's speculation controls as the
other's too, hides the host's topology, and cuts the XSAVE area down to what guests may use. The measured hosts are the
judge of these rules: nothing that real KVM gave to a vCPU there may be outside them.
"""

from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature

ALL = 0xFFFF_FFFF
PASSED_ON = {0x2, 0x4, 0x8000_0002, 0x8000_0003, 0x8000_0004, 0x8000_0005, 0x8000_001D}
MASKS = {
    (0x1, 0): (ALL, ALL, 0x76DA_B227, 0x0FAB_FBFF),
    (0x7, 0): (0x0000_0003, 0xFDBF_6FFF, 0x1B41_5F6E, 0xAFC1_451C),
    (0x7, 1): (0x0000_0030, 0, 0, 0),
    (0x7, 2): (0, 0, 0, 0x0000_003F),
    (0xB, 0): (0, 0, 0, ALL),
    (0x1F, 0): (0, 0, 0, ALL),
    (0x8000_0001, 0): (ALL, ALL, 0x00E1_0BF7, 0xEFD3_FBFF),
    (0x8000_0006, 0): (ALL, ALL, ALL, 0xFFFC_FFFF),
    (0x8000_0007, 0): (0, 0, 0, 0x0000_0100),
    (0x8000_0008, 0): (0x0000_FFFF, 0x1502_D205, 0x0000_F0FF, 0),
    (0x8000_0019, 0): (ALL, ALL, 0, 0),
    (0x8000_001A, 0): (0x0000_0007, 0, 0, 0),
    (0x8000_0021, 0): (0x0000_0045, 0, 0, 0),
}
"""For leaves of which a part is passed on: EAX, EBX, ECX, EDX. Of what is not here, nothing is."""
NESTED_SVM, ASIDS = 0x1001_943B, 8
XCR0 = {
    Feature.XSAVE: 0b11,
    Feature.AVX: 1 << 2,
    Feature.MPX: 0b11 << 3,
    Feature.AVX512F: 0b111 << 5,
    Feature.PKU: 1 << 9,
    Feature.AMX_TILE: 0b11 << 17,
}
"""The components that guests may enable, and what the processor must have besides: some have a component and no use."""
PEBS_FOR_GUESTS = (6, 0x6A)
"""Family and model of Ice Lake servers."""
HIGHEST_BASIC, HIGHEST_AMD = 0x1F, 0x8000_0021
KVM = (
    CpuidEntry(0x4000_0000, 0, 0x4000_0001, 0x4B4D_564B, 0x564B_4D56, 0x4D),
    CpuidEntry(0x4000_0001, 0, 0x0100_7EFB),
)
SPECULATION = (
    (Feature.AMD_IBPB, Feature.SPEC_CTRL),
    (Feature.AMD_IBRS, Feature.SPEC_CTRL),
    (Feature.AMD_STIBP, Feature.STIBP),
    (Feature.AMD_SSBD, Feature.SSBD),
)


def kvm_supported(raw: Cpuid) -> Cpuid:
    """KVM's table on the processor that answers `raw`; leaves in which everything is zero are left out."""
    amd = raw.vendor == "AuthenticAMD"
    kept = [each for each in map(_passed_on, raw) if each]
    table = Cpuid(tuple(kept)).replace(*_maxima(raw, amd=amd), *_monitored(raw, amd=amd))
    if raw.max_leaf >= 6:
        table = table.replace(CpuidEntry(0x6, eax=4))
    if raw.max_leaf >= 7:
        table = table.replace(table[7, 0])
    table = _amd(table, raw) if amd else _intel(table, raw)
    table = _emulated(table, raw)
    return Cpuid((*filter(_says_something, _xsave(table, raw)), *KVM))


def _passed_on(entry: CpuidEntry) -> CpuidEntry | None:
    if entry.leaf in PASSED_ON:
        return entry
    mask = MASKS.get((entry.leaf, entry.subleaf))
    if mask is None:
        return None
    values = [value & bits for value, bits in zip(entry.registers, mask, strict=True)]
    return CpuidEntry(entry.leaf, entry.subleaf, *values)


def _says_something(entry: CpuidEntry) -> bool:
    return any(entry.registers) or entry.leaf in {0x4, 0x8000_001D}


def _maxima(raw: Cpuid, *, amd: bool) -> tuple[CpuidEntry, CpuidEntry]:
    """KVM adds AMD's leaf 0x80000021, in which it tells what the host's kernel knows by other means."""
    highest = raw.max_extended_leaf
    if amd and highest >= 0x8000_001D:
        highest = HIGHEST_AMD
    return raw[0].replace(eax=min(raw.max_leaf, HIGHEST_BASIC)), raw[0x8000_0000].replace(eax=highest)


def _monitored(raw: Cpuid, *, amd: bool) -> tuple[CpuidEntry, ...]:
    """Performance monitoring, version 2 at most; none on hybrid processors."""
    entry = raw[0xA]
    if amd or raw.has(Feature.HYBRID) or not entry.eax & 0xFF:
        return ()
    return (CpuidEntry(0xA, 0, entry.eax & ~0xFF | min(entry.eax & 0xFF, 2), entry.ebx, 0, entry.edx | 1 << 15),)


def _emulated(table: Cpuid, raw: Cpuid) -> Cpuid:
    table = table.with_(Feature.X2APIC)
    if raw.max_leaf >= 7:
        table = table.with_(Feature.TSC_ADJUST, Feature.ARCH_CAPABILITIES)
    return table


def _intel(table: Cpuid, raw: Cpuid) -> Cpuid:
    if raw.max_leaf >= 7:
        table = table.with_(Feature.UMIP)
    if raw.has(Feature.HYBRID):
        table = table.without(Feature.PDCM)
    if (raw.family, raw.model) != PEBS_FOR_GUESTS:
        table = table.without(Feature.DTES64, Feature.DS)
    if raw.has(Feature.AMX_TILE):
        table = table.replace(*raw.subleaves(0x1D), *raw.subleaves(0x1E))
    return table.with_(*(theirs for theirs, ours in SPECULATION if table.has(ours)))


def _amd(table: Cpuid, raw: Cpuid) -> Cpuid:
    zen2 = raw.family == 0x17 and raw.model >= 0x30
    if raw.max_extended_leaf >= 0x8000_001D:  # a serialising LFENCE; null selectors clear their bases
        table = table.replace(CpuidEntry(0x8000_0021, eax=table[0x8000_0021].eax | (0x44 if zen2 else 0x04)))
    if raw.max_leaf >= 7:
        table = table.with_(*(ours for theirs, ours in SPECULATION if table.has(theirs)))
    if table.has(Feature.AMD_SSBD) or 0x15 <= raw.family <= 0x17:
        table = table.with_(Feature.AMD_VIRT_SSBD)
    nested = raw[0x8000_000A]
    return table.replace(CpuidEntry(0x8000_000A, eax=1, ebx=ASIDS, edx=nested.edx & NESTED_SVM | 1 << 5))


def _xsave(table: Cpuid, raw: Cpuid) -> Cpuid:
    """Leaf 0xD: KVM reports the sizes for everything that a guest may enable."""
    head = raw[0xD]
    enabled = head.eax & sum(components for feature, components in XCR0.items() if table.has(feature))
    if not enabled:
        return table
    parts = [each for each in raw.subleaves(0xD) if each.subleaf >= 2 and enabled >> each.subleaf & 1]
    size = max([0x240, *(each.ebx + each.eax for each in parts)])
    instructions = raw[0xD, 1].eax & 0x1F
    compact = _compact(parts) if instructions & 0b1010 else 0
    return table.replace(CpuidEntry(0xD, 0, enabled, size, size), CpuidEntry(0xD, 1, instructions, compact), *parts)


def _compact(parts: list[CpuidEntry]) -> int:
    """The size of the area in its compacted form, where some components begin at multiples of 64."""
    end = 0x240
    for each in parts:
        end = (end + 63 & ~63 if each.ecx & 2 else end) + each.eax
    return end


LISTED = frozenset(
    {0x10, 0x11, 0x12, 0x34, 0x3B, 0x8B, 0x9E, 0xCE, 0x140, 0x174, 0x175, 0x176, 0x17A, 0x1A0, 0x1FC, 0x277, 0x6E0}
    | {*range(0x4B56_4D00, 0x4B56_4D08), *range(0xC000_0081, 0xC000_0085), 0xC000_0102, 0xC001_0015}
)
"""MSRs that KVM lists on every processor, less those of performance monitoring, machine checks and nested guests."""
WITH_FEATURE = (
    (Feature.SPEC_CTRL, (0x48,)),
    (Feature.WAITPKG, (0xE1,)),
    (Feature.ARCH_CAPABILITIES, (0x10A,)),
    (Feature.XFD, (0x1C4, 0x1C5)),
    (Feature.MPX, (0xD90,)),
    (Feature.RDTSCP, (0xC000_0103,)),
    (Feature.SVM, (0xC000_0104, 0xC001_0117, 0xC001_011F)),
    (Feature.VMX, (0x3A,)),
)


def kvm_msrs(supported: Cpuid) -> frozenset[int]:
    """The MSRs that KVM lists on a host of which it supports that table."""
    found = (index for feature, indices in WITH_FEATURE if supported.has(feature) for index in indices)
    return LISTED | frozenset(found)
