"""One number for each processor, wherever it is told: APIC ids in CPUID, MADT, MP table and SRAT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from anyvisor.finding import Finding
from anyvisor.plan import VcpuPlan
from anyvisor.x86_64.acpi.madt import IoApic as AcpiIoApic
from anyvisor.x86_64.acpi.madt import Madt
from anyvisor.x86_64.acpi.srat import LapicAffinity, Srat, X2ApicAffinity
from anyvisor.x86_64.boot_checks.check import broken, check, hint
from anyvisor.x86_64.boot_checks.scene import MULTIBOOT, Scene
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.mpentries import IoApic as MpIoApic

TOPOLOGY_LEAVES = (0xB, 0x1F, 0x8000_0026)
AMD_TOPOLOGY = 0x8000_001E
MANY = 8
"""As many ids as are named in a message."""


@check(
    "apic-id-cpuid",
    "Each vCPU's CPUID tells it its own APIC id, in every leaf.",
    "SDM Vol. 3, 9.9.1",
    "APM Vol. 3, E.5",
)
def apic_id_cpuid(scene: Scene) -> Iterator[Finding]:
    """The id by which its interrupt controller knows it: eight bits of it in leaf 1."""
    for vcpu in scene.plan.vcpus:
        for place, found, wanted in _wrong_ids(vcpu):
            yield broken(
                f"vCPU {vcpu.index}",
                f"CPUID leaf {place} names an APIC id that is not its own",
                found=f"{found:#x}",
                wanted=f"{wanted:#x}",
                remedy="set it in anyvisor_cpuid, as CpuidPolicy does",
                vcpu=vcpu.index,
            )
            break


def _wrong_ids(vcpu: VcpuPlan) -> Iterator[tuple[str, int, int]]:
    """Leaf, id found, id wanted."""
    cpuid = vcpu.state(Cpuid)
    if not isinstance(cpuid, Cpuid) or not cpuid.has(Feature.APIC):
        return
    own = vcpu.hardware_id
    initial = cpuid[Leaf.PROCESSOR].ebx >> 24
    if initial != own & 0xFF:
        yield "0x1", initial, own & 0xFF
    for leaf in TOPOLOGY_LEAVES:
        for entry in cpuid.subleaves(leaf):
            if entry.edx != own and any(entry.registers):
                yield entry.place, entry.edx, own
    for entry in cpuid.subleaves(AMD_TOPOLOGY):
        if entry.eax != own and any(entry.registers):
            yield f"{AMD_TOPOLOGY:#x}", entry.eax, own


@check(
    "apic-ids-agree",
    "The MADT, the MP table and the SRAT name the processors that there are, by their APIC ids.",
    "ACPI 6.5, 5.2.12 and 5.2.16",
    "MP 1.4, 4.3.1",
)
def apic_ids_agree(scene: Scene) -> Iterator[Finding]:
    """Each table that there is."""
    wanted = {each.hardware_id for each in scene.plan.vcpus}
    for name, found in _named_ids(scene):
        if set(found) != wanted or len(found) != len(set(found)):
            yield broken(
                name,
                _disagreement(found, wanted),
                found=_listed(found),
                wanted=_listed(sorted(wanted)),
                remedy="make the table from the topology's APIC ids (apic_ids)",
            )


def _named_ids(scene: Scene) -> Iterator[tuple[str, list[int]]]:
    """Each table that names processors, and their ids."""
    if madt := scene.acpi_table(Madt):
        yield "MADT", list(madt.apic_ids)
    if scene.mptable:
        yield "MP table", [each.apic_id for each in scene.mptable.table.processors]
    if srat := scene.acpi_table(Srat):
        processors = [each for each in srat.entries if isinstance(each, LapicAffinity | X2ApicAffinity)]
        yield "SRAT", [each.apic_id for each in processors if each.flags.enabled]


def _disagreement(found: Collection[int], wanted: set[int]) -> str:
    twice = [each for each, count in Counter(found).items() if count > 1]
    missing, strange = sorted(wanted - set(found)), sorted(set(found) - wanted)
    parts = [f"does not name the processor with the id {_listed(missing)}" if missing else ""]
    parts += [f"names the id {_listed(strange)}, which no vCPU has" if strange else ""]
    parts += [f"names the id {_listed(twice)} twice" if twice else ""]
    return ", and ".join(filter(None, parts))


def _listed(ids: Collection[int]) -> str:
    words = [f"{each:#x}" for each in list(ids)[:MANY]]
    return ", ".join([*words, f"and {len(ids) - MANY} more"] if len(ids) > MANY else words) or "none"


@check(
    "boot-processor",
    "The tables name the boot processor first, and the MP table marks it as such.",
    "ACPI 6.5, 5.2.12",
    "MP 1.4, 4.3.1",
)
def boot_processor(scene: Scene) -> Iterator[Finding]:
    """That is vCPU 0."""
    if not scene.plan.vcpus:
        return
    own = scene.plan.vcpus[0].hardware_id
    for name, found in _named_ids(scene):
        if name == "MADT" and found and found[0] != own and own in found:
            yield hint(name, "does not name the boot processor first", found=f"{found[0]:#x}", wanted=f"{own:#x}")
    marked = [each.apic_id for each in scene.mptable.table.processors if each.bootstrap] if scene.mptable else [own]
    if marked != [own]:
        problem = "does not mark vCPU 0, and only it, as the boot processor"
        yield broken("MP table", problem, found=_listed(marked), wanted=f"{own:#x}", remedy="mark it (bootstrap=True)")


@check("ioapic-ids", "No two I/O APICs share an id, and in an MP table none has a processor's.", "MP 1.4, 4.3.3")
def ioapic_ids(scene: Scene) -> Iterator[Finding]:
    """Where both are on one bus, as the MP table has it."""
    madt, processors = scene.acpi_table(Madt), {each.hardware_id for each in scene.plan.vcpus}
    acpi = [each.id for each in madt.entries if isinstance(each, AcpiIoApic)] if madt else []
    mp = [each.id for each in scene.mptable.table.entries if isinstance(each, MpIoApic)] if scene.mptable else []
    for name, ids in (("MADT", acpi), ("MP table", mp)):
        if twice := [each for each, count in Counter(ids).items() if count > 1]:
            yield broken(name, "two I/O APICs have one id", found=_listed(twice), wanted="an id for each")
    if taken := sorted(processors & set(mp)):
        yield hint("MP table", "an I/O APIC has the id of a processor", found=_listed(taken), wanted="an id of its own")


@check("processor-tables", "A machine with several processors has tables from which its kernel learns of them.", "ACPI 6.5, 5.2.12", "MP 1.4, 4.3.1")  # fmt: skip  # noqa: E501
def processor_tables(scene: Scene) -> Iterator[Finding]:
    """And the command line does not switch them off. A flat binary may know without."""
    count, told = len(scene.plan.vcpus), scene.told
    if count < 2 or not told or scene.mptable or "MP" in scene.unreadable or "ACPI" in scene.unreadable:
        return
    if scene.acpi is None:
        problem = f"there are {count} vCPUs, and no ACPI and no MP table: the kernel will know of one only"
        yield hint("processors", problem, remedy="give it tables (--tables acpi), or one vCPU")
    elif told.protocol != MULTIBOOT and "acpi=off" in scene.words:
        problem = f"acpi=off, and only ACPI names the {count} vCPUs: the kernel will know of one only"
        yield hint("command line", problem, remedy="leave out acpi=off, or give it an MP table (--tables both)")


CHECKS = (apic_id_cpuid, apic_ids_agree, boot_processor, ioapic_ids, processor_tables)
