"""From a template to a CPUID table: the leaves that it describes, with what the host alone can say."""

from __future__ import annotations

from anyvisor.errors import ConfigError
from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.cpu_models import xsave
from anyvisor.x86_64.cpu_models.caches import amd_caches, intel_caches
from anyvisor.x86_64.cpu_models.missing import MIRRORED, most
from anyvisor.x86_64.cpu_models.template import HOST, LeafPatch, Template
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.cpuid_topology import AMD_VENDORS
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import Leaf, ProcessorInfo, Signature

HYPERVISOR_LEAVES = range(0x4000_0000, 0x4000_0100)
APIC_BUS_KHZ = 1_000_000
"""KVM's local APICs count nanoseconds, and so do our own."""
DEFAULT_LINE_BYTES = 64
LEAST_MAX_LEAF = Leaf.TOPOLOGY
LINEAR_BITS, LINEAR_BITS_LA57 = 48, 57


class Contradiction(ConfigError):
    """A template contradicts itself; `key`, and `value` in what it holds, are where to look."""

    def __init__(self, message: str, key: str, value: object = None):
        self.key, self.value = key, value
        super().__init__(message)


def build(template: Template, facts: HostFacts) -> Cpuid:
    """The table of a template on a host, whether or not the host can give it.

    Contradiction when the template contradicts itself; Unsupported when the facts have no CPUID table.
    """
    host = facts.supported_state(Cpuid)
    if template.from_host:
        start = host.with_(Feature.TSC_DEADLINE) if facts.has(Capability.TSC_DEADLINE) else host
        table = _changed_host(template, facts, start)
    else:
        table = _from_nothing(template, facts, host)
    if template.hypervisor_leaves == "none":
        table = table.drop(*HYPERVISOR_LEAVES)
    return _with_timing(table, facts) if template.timing_leaf else table


def _changed_host(template: Template, facts: HostFacts, host: Cpuid) -> Cpuid:
    if _is_unchanged(template):
        return host
    table = _with_identity(template, host, host)
    return _completed(template, facts, table, host)


def _is_unchanged(template: Template) -> bool:
    """Whether nothing is said but what does not concern the processor."""
    rest = ("description", "from_host", "hypervisor_leaves", "timing_leaf", "msrs")
    plain = Template(**{name: getattr(template, name) for name in rest})
    return template == plain


def _from_nothing(template: Template, facts: HostFacts, host: Cpuid) -> Cpuid:
    empty = Cpuid((CpuidEntry(Leaf.VENDOR), CpuidEntry(Leaf.PROCESSOR), CpuidEntry(Leaf.EXTENDED)))
    table = _with_identity(template, empty.replace(CpuidEntry(Leaf.EXTENDED_PROCESSOR)), host)
    table = table.replace(*(each for each in most(facts) if each.leaf in HYPERVISOR_LEAVES))
    return _completed(template, facts, table, host)


def _completed(template: Template, facts: HostFacts, table: Cpuid, host: Cpuid) -> Cpuid:
    """The steps that both kinds have in common; raw bits come last, and leaf 0xD after the features among them."""
    table = _with_features(table, template, facts)
    table = _with_caches(table, template)
    table = _with_address_sizes(table, template, host)
    table = _patched(table, template.leaves)
    _check_xsave(template, table)
    table = xsave.fitted(table, host)
    table = _with_maxima(table, template)
    return _patched(_mirrored(table), template.leaves)


def _with_identity(template: Template, table: Cpuid, host: Cpuid) -> Cpuid:
    """Maker, family, model, stepping and name: the template's, or the host's."""
    vendor = host.vendor if template.is_vendor_of_host else str(template.vendor)
    ebx, edx, ecx = _words(vendor, 3)
    table = table.replace(table[Leaf.VENDOR].replace(ebx=ebx, ecx=ecx, edx=edx))
    if vendor in AMD_VENDORS:
        table = table.replace(table[Leaf.EXTENDED].replace(ebx=ebx, ecx=ecx, edx=edx))
    signature = int(_signature(template, host))
    table = table.replace(table[Leaf.PROCESSOR].replace(eax=signature))
    if vendor in AMD_VENDORS:
        table = table.replace(table[Leaf.EXTENDED_PROCESSOR].replace(eax=signature))
    brand = host.brand if template.brand in (None, HOST) else str(template.brand)
    return table.replace(*(_brand_entry(Leaf.BRAND + i, brand[16 * i : 16 * i + 16]) for i in range(3)))


def _brand_entry(leaf: int, letters: str) -> CpuidEntry:
    eax, ebx, ecx, edx = _words(letters, 4)
    return CpuidEntry(leaf, eax=eax, ebx=ebx, ecx=ecx, edx=edx)


def _words(text: str, count: int) -> list[int]:
    """A text in registers, four characters each."""
    letters = text.encode("latin-1").ljust(4 * count, b"\0")
    return [int.from_bytes(letters[4 * i : 4 * i + 4], "little") for i in range(count)]


def _signature(template: Template, host: Cpuid) -> Signature:
    own = template.is_vendor_of_host
    family = template.family if template.family is not None else (host.family if own else 6)
    model = template.model if template.model is not None else (host.model if own else 0)
    stepping = template.stepping if template.stepping is not None else (host.stepping if own else 0)
    if model > 0xF and family not in {6, *range(0xF, 0x10F)}:
        raise Contradiction(
            f"model {model:#x}: only families 6 and from 15 up have models above 15; family is {family}", "model"
        )
    return Signature(
        stepping=stepping,
        model=model & 0xF,
        family=min(family, 0xF),
        extended_model=model >> 4,
        extended_family=max(family - 0xF, 0),
    )


def _with_features(table: Cpuid, template: Template, facts: HostFacts) -> Cpuid:
    """The features asked for, the optional ones that the host has, and none of those removed."""
    wanted = template.features | (template.optional & most(facts).features)
    for each in sorted(wanted, key=lambda each: (each.leaf, each.subleaf)):
        if table.get(each.leaf, each.subleaf) is None:
            table = table.replace(CpuidEntry(each.leaf, each.subleaf))
        table = table.with_(each)
    table = table.without(*template.removed)
    line = next((each.line_bytes for each in template.caches), DEFAULT_LINE_BYTES)
    entry = table[Leaf.PROCESSOR]
    info = ProcessorInfo(entry.ebx)
    size = (info.clflush_size or line // 8) if table.has(Feature.CLFSH) else 0
    return table.replace(entry.replace(ebx=int(info.replace(clflush_size=size))))


def _with_caches(table: Cpuid, template: Template) -> Cpuid:
    if not template.caches:
        return table
    if table.vendor in AMD_VENDORS:
        most_leaf = template.max_extended_leaf or table.max_extended_leaf or Leaf.AMD_TOPOLOGY
        return table.drop(Leaf.AMD_CACHES).replace(*amd_caches(template.caches, most_leaf))
    return table.drop(Leaf.CACHES).replace(*intel_caches(template.caches))


def _with_address_sizes(table: Cpuid, template: Template, host: Cpuid) -> Cpuid:
    linear = LINEAR_BITS_LA57 if table.has(Feature.LA57) else LINEAR_BITS
    if template.linear_bits not in (None, linear):
        raise Contradiction(
            f"linear_bits = {template.linear_bits}: there are {LINEAR_BITS_LA57} with the feature la57, and "
            f"{LINEAR_BITS} without; leave it out",
            "linear_bits",
        )
    physical = template.physical_bits or host.physical_address_bits
    entry = table[Leaf.ADDRESS_SIZES]
    return table.replace(entry.replace(eax=linear << 8 | physical))


def _with_maxima(table: Cpuid, template: Template) -> Cpuid:
    """How far each range of leaves goes: as the template says, else as far as there is something in it."""
    basic = max(each.leaf for each in table if each.leaf < HYPERVISOR_LEAVES.start)
    extended = max(each.leaf for each in table if each.leaf >= Leaf.EXTENDED)
    if table.get(Leaf.AMD_CACHES):
        extended = max(extended, Leaf.AMD_TOPOLOGY)  # the policy for guests adds that one
    head, extended_head = table[Leaf.VENDOR], table[Leaf.EXTENDED]
    last = template.max_leaf or max(head.eax, basic, LEAST_MAX_LEAF)
    last_extended = template.max_extended_leaf or max(extended_head.eax, extended)
    _check_within(template, table, last, last_extended)
    beyond = {each.leaf for each in table if last < each.leaf < HYPERVISOR_LEAVES.start or each.leaf > last_extended}
    table = table.drop(*beyond).replace(head.replace(eax=last), extended_head.replace(eax=last_extended))
    features = table.subleaves(Leaf.STRUCTURED_FEATURES)
    if features:
        last_subleaf = max([0, *(each.subleaf for each in features if any(each.registers))])
        table = table.replace(table[Leaf.STRUCTURED_FEATURES].replace(eax=last_subleaf))
    return table


def _check_within(template: Template, table: Cpuid, last: int, last_extended: int) -> None:
    needs = {each.name.lower(): each.leaf for each in template.features if each.leaf not in HYPERVISOR_LEAVES}
    needs |= {f"[[leaf]] {each.leaf:#x}": each.leaf for each in template.leaves if each.leaf not in HYPERVISOR_LEAVES}
    if table.has(Feature.XSAVE):
        needs["xsave"] = Leaf.XSAVE
    for name, leaf in sorted(needs.items()):
        key, limit = ("max_extended_leaf", last_extended) if leaf >= Leaf.EXTENDED else ("max_leaf", last)
        if leaf > limit:
            raise Contradiction(f"{name} needs {key} = {leaf:#x} or more, and it is {limit:#x}; raise it", key)


def _check_xsave(template: Template, table: Cpuid) -> None:
    needing = xsave.needing(table)
    if needing and not table.has(Feature.XSAVE):
        key, value = ("remove", "xsave") if Feature.XSAVE in template.removed else ("features", needing[0])
        message = f"without XSAVE there is no {', '.join(needing)}; add xsave to `features`, or these to `remove`"
        raise Contradiction(message, key, value)


def _patched(table: Cpuid, patches: tuple[LeafPatch, ...]) -> Cpuid:
    for patch in patches:
        entry = table[patch.leaf, patch.subleaf]
        changes = {name: bits.applied(getattr(entry, name)) for name, bits in patch.registers.items()}
        table = table.replace(entry.replace(**changes))
    return table


def _mirrored(table: Cpuid) -> Cpuid:
    """AMD repeats features of leaf 1 in leaf 0x80000001."""
    if table.vendor not in AMD_VENDORS:
        return table
    entry = table[Leaf.EXTENDED_PROCESSOR]
    return table.replace(entry.replace(edx=entry.edx & ~MIRRORED | table[Leaf.PROCESSOR].edx & MIRRORED))


def _with_timing(table: Cpuid, facts: HostFacts) -> Cpuid:
    """With the leaf that says how fast time counts, where the hypervisor shows itself and knows it."""
    head = table.get(Leaf.HYPERVISOR)
    speed = facts.tsc_khz or facts.guest_tsc_khz
    if head is None or not table.hypervisor or not speed or table.get(Leaf.TIMING):
        return table
    timing = CpuidEntry(Leaf.TIMING, eax=speed, ebx=APIC_BUS_KHZ)
    return table.replace(head.replace(eax=max(head.eax, Leaf.TIMING)), timing)
