"""The hosts that ship as data are the machines that their names say: the judges are the Debian tool `cpuid`, which
knows processors by family and model, the KVM backend, and rules of KVM that real KVM's answers must keep to."""

import itertools
import json
import re
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

import attrs
import pytest
from kvm_supported import kvm_msrs, kvm_supported

from anyvisor import MachineConfig, Topology, assemble
from anyvisor.codec import name_of
from anyvisor.common import common_facts
from anyvisor.errors import ConfigError, HypervisorUnavailable
from anyvisor.facts import Capability, HostFacts
from anyvisor.plan import BootPlan
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msrs import Msr, Msrs
from anyvisor_kvm.hypervisor import open_kvm
from anyvisor_kvm.x86_64 import X86_64
from anyvisor_mock.host_facts import host_facts, host_names
from elves import tiny_elf
from x86_64.cpuid_judges import cpuid_tool, values

REPOSITORY = Path(__file__).parents[3]


@attrs.frozen
class Machine:
    """What the tool should say of a host: words of its name for it, family, model, bits of a physical address."""

    words: str
    family: int
    model: int
    bits: int
    measured: bool = False


MACHINES = {
    "amd-k10": Machine(r"Quad-Core Opteron \(Barcelona DR-B3\) Processor 1352 \[K10\]", 0x10, 0x02, 48),
    "amd-bulldozer": Machine(r"FX-Series \(Zambezi OR-B2\) \[Bulldozer\]", 0x15, 0x01, 48),
    "amd-naples": Machine(r"EPYC \(1st Gen\) \(Naples ZP-B2\) \[Zen\]", 0x17, 0x01, 48),
    "amd-rome": Machine(r"EPYC \(2nd Gen\) \(Rome B0\) \[Zen 2\]", 0x17, 0x31, 48),
    "amd-milan": Machine(r"EPYC \(3rd Gen\) \(Milan B1\) \[Zen 3\]", 0x19, 0x01, 48, measured=True),
    "amd-genoa": Machine(r"EPYC \(Genoa B1\) \[Zen 4\]", 0x19, 0x11, 52, measured=True),
    "intel-nehalem": Machine(r"Xeon Processor 3500 \(Bloomfield D0\).* \[Nehalem\]", 6, 0x1A, 36),
    "intel-broadwell": Machine(r"Xeon .*E5-2600.* v4 \(Broadwell-E\)", 6, 0x4F, 46),
    "intel-skylake-sp": Machine(r"Xeon .*\(Skylake H0/M0/U0\)", 6, 0x55, 46, measured=True),
    "intel-cascade-lake-sp": Machine(r"Xeon .*\(Cascade Lake-W B1/L1/R1\)", 6, 0x55, 46, measured=True),
    "intel-ice-lake-sp": Machine(r"\(Ice Lake\) \[Sunny Cove\]", 6, 0x6A, 46, measured=True),
    "intel-sapphire-rapids": Machine(r"Xeon .*\(Sapphire Rapids\)", 6, 0x8F, 46, measured=True),
    "intel-alder-lake": Machine(r"Core \(Alder Lake L0\) \[Golden Cove\]", 6, 0x9A, 46),
}
MEASURED = [name for name, machine in MACHINES.items() if machine.measured]
DERIVED = [name for name, machine in MACHINES.items() if not machine.measured]

NOT_KVMS = {0xB, 0x1F}
"""Leaves that Firecracker wrote, and bits that it did."""
OWN_WORDS = {Feature.HYPERVISOR, Feature.TSC_DEADLINE, Feature.ARCH_CAPABILITIES}


def table(name: str) -> Cpuid:
    return host_facts(name).supported_state(Cpuid)


def cpuids(plan: BootPlan) -> list[Cpuid]:
    """The CPUID table of each vCPU."""
    return [each for vcpu in plan.vcpus for each in vcpu.states if isinstance(each, Cpuid)]


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return tiny_elf(tmp_path / "vmlinux", b"\xf4")


def test_every_file_is_a_host_and_every_host_is_judged() -> None:
    assert host_names() == tuple(sorted(MACHINES))


@pytest.mark.parametrize("name", MACHINES)
def test_the_cpuid_tool_knows_the_machine_by_the_name_of_its_file(name: str) -> None:
    wanted = MACHINES[name]
    (lines,) = cpuid_tool([table(name)])
    assert values(lines, "vendor_id") == ['"AuthenticAMD"' if name.startswith("amd") else '"GenuineIntel"']
    assert values(lines, "family synth")[0] == hex(wanted.family)
    assert values(lines, "model synth")[0] == hex(wanted.model)
    assert values(lines, "maximum physical address bits") == [hex(wanted.bits)]
    assert re.search(wanted.words, values(lines, "synth")[-1])
    assert host_facts(name).physical_address_bits == wanted.bits


@pytest.mark.parametrize("name", MACHINES)
def test_the_cpuid_tool_finds_every_component_of_the_xsave_area_and_none_over_another(name: str) -> None:
    (lines,) = cpuid_tool([table(name)])
    text = "\n".join(lines)
    found = re.findall(r"state byte size += 0x([0-9a-f]+).*\n.*state byte offset += 0x([0-9a-f]+)", text)
    places = sorted((int(offset, 16), int(size, 16)) for size, offset in found)
    xcr0 = sum(int(each, 16) for each in values(lines, "XCR0 valid bit field mask"))
    assert len(places) == (xcr0 >> 2).bit_count()
    assert all(offset + size <= after for (offset, size), (after, _) in itertools.pairwise(places))
    if places:
        (needed,) = values(lines, "bytes required by XSAVE/XRSTOR area")
        assert int(needed, 16) == sum(places[-1])


@pytest.mark.parametrize("name", MACHINES)
def test_a_host_looks_as_the_kvm_backend_would_report_it(name: str) -> None:
    facts = host_facts(name)
    tables = (X86_64.states_before, X86_64.vcpu_states, X86_64.states_after)
    assert facts.states == tuple(name_of(kind) for kinds in tables for kind in kinds)
    assert (facts.backend, facts.architecture, facts.modes) == ("kvm", X86_64.name, X86_64.modes)
    assert facts.has(Capability.NATIVE) and facts.has(Capability.FULL_SYSTEM) and facts.has(Capability.FULL_PROCESSOR)
    assert 0 < facts.recommended_vcpus <= facts.max_vcpus
    assert [type(each) for each in facts.supported] == [Cpuid, Msrs]


@pytest.mark.kvm
def test_capabilities_and_limits_are_those_of_the_kvm_here() -> None:
    try:
        with open_kvm() as kvm:
            here = kvm.facts
    except HypervisorUnavailable as error:
        pytest.skip(f"to run this: {error}")
    native = {Capability.NATIVE, Capability.FULL_SYSTEM}
    for facts in map(host_facts, MACHINES):
        assert facts.capabilities - native == here.capabilities - native
        limits = ("max_vcpus", "max_memory_slots", "hardware_id_limit")
        assert [getattr(facts, each) for each in limits] == [getattr(here, each) for each in limits]


@pytest.mark.parametrize("name", MACHINES)
def test_the_table_has_every_leaf_once_in_kvm_s_order(name: str) -> None:
    places = [(each.leaf, each.subleaf) for each in table(name)]
    parts = [[place for place in places if place[0] >> 28 == part] for part in (0x0, 0x8, 0x4)]
    assert places == [place for part in parts for place in sorted(set(part))]
    assert {leaf for leaf, _ in parts[0]} == set(range(table(name).max_leaf + 1))
    assert {leaf for leaf, _ in parts[1]} == set(range(0x8000_0000, table(name).max_extended_leaf + 1))
    assert table(name).hypervisor == "KVMKVMKVM"


@pytest.mark.parametrize("name", MEASURED)
def test_what_real_kvm_gave_is_what_the_rules_for_the_derived_hosts_say(name: str) -> None:
    real = table(name).drop(*NOT_KVMS).without(*OWN_WORDS)
    ruled = kvm_supported(table(name)).drop(*NOT_KVMS).without(*OWN_WORDS)
    for entry in real:
        other = ruled[entry.leaf, entry.subleaf]
        if entry.leaf == 0xD and entry.subleaf < 2:  # EBX is for what the vCPU has enabled
            other = other.replace(ebx=entry.ebx)
        assert entry.registers == other.registers, entry.place


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_host_keeps_to_the_rules(name: str) -> None:
    ruled = kvm_supported(table(name))
    assert [line for line in table(name).diff(ruled) if "removed" not in line] == []
    assert not any(any(each.registers) for each in table(name) if ruled.get(each.leaf, each.subleaf) is None)


@pytest.mark.parametrize("name", MACHINES)
def test_there_are_the_msrs_that_kvm_lists_for_such_features(name: str) -> None:
    here = {each.index for each in host_facts(name).supported_state(Msrs)}
    hidden = {Msr.UMWAIT_CONTROL} if name == "intel-sapphire-rapids" else set()  # Firecracker hides WAITPKG
    assert here == kvm_msrs(table(name)) | hidden


@pytest.mark.parametrize("name", MACHINES)
def test_notes_say_where_the_numbers_come_from(name: str) -> None:
    source, *others = host_facts(name).notes
    assert source.startswith("measured: " if MACHINES[name].measured else "derived: ")
    assert re.search(r"source: \S.* at commit [0-9a-f]{12}$", source)
    assert others


@pytest.mark.parametrize("name", MACHINES)
def test_facts_survive_their_own_json(name: str) -> None:
    assert HostFacts.from_json(host_facts(name).to_json()) == host_facts(name)


def test_an_unknown_host_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'intel-pentium'.*amd-genoa.*intel-skylake-sp"):
        host_facts("intel-pentium")
    with pytest.raises(ConfigError, match="none"):
        host_facts("../host_facts")


@pytest.mark.parametrize("name", MACHINES)
def test_a_boot_is_planned_on_every_host(name: str, kernel: Path) -> None:
    plan = assemble(
        MachineConfig(kernel=kernel, topology=Topology(sockets=2, cores=4, threads=2), vcpus=16), host_facts(name)
    )
    assert [each.apic_id for each in cpuids(plan)] == list(range(16))


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(MACHINES, 2)), ids=" ".join)
def test_one_boot_is_planned_for_any_two_hosts_and_asks_for_nothing_that_one_lacks(
    first: str, second: str, kernel: Path
) -> None:
    both = table(first).features & table(second).features
    for a, b in ((first, second), (second, first)):
        common = common_facts(host_facts(a), host_facts(b))
        plan = assemble(MachineConfig(kernel=kernel, topology=Topology(cores=2), vcpus=2), common)
        guest, _ = cpuids(plan)
        assert guest.features - both <= {Feature.HYPERVISOR, Feature.TSC_DEADLINE, Feature.HTT, Feature.CMP_LEGACY}
        assert guest.vendor == table(a).vendor
        assert common.physical_address_bits == min(MACHINES[a].bits, MACHINES[b].bits)
        assert {each.subleaf for each in guest.subleaves(0xD) if each.subleaf > 1} == {
            bit for bit in range(2, 63) if guest[0xD].eax >> bit & 1
        }


def test_nothing_is_read_before_it_is_asked_for() -> None:
    code = (
        "import anyvisor_mock.host_facts as h; assert not h.host_facts.cache_info().currsize; h.host_facts('amd-rome')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert host_facts("amd-rome") is host_facts("amd-rome")


def test_the_data_is_in_the_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"anyvisor_mock/hosts/{name}.json" for name in MACHINES} <= set(names)
    for name in MACHINES:
        text = (resources.files("anyvisor_mock") / "hosts" / f"{name}.json").read_text("utf-8")
        assert zipfile.ZipFile(wheel).read(f"anyvisor_mock/hosts/{name}.json").decode() == text
        assert set(json.loads(text)) <= {"notes", "recommended_vcpus", "cpuid", "msrs"}
