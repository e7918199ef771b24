"""Which hosts can give which models: plans where they can, the exact list of what is missing where they cannot."""

import re

import attrs
import pytest

import anyvisor
from anyvisor import MachineConfig, Topology
from anyvisor.errors import ConfigError
from anyvisor.memory import GIB, MIB
from anyvisor.x86_64.cpu_models import cpu_model, fitting_models, model_names
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.msrs import Msr, Msrs
from anyvisor.x86_64.paging import walk_memory
from anyvisor_mock.host_facts import host_facts, host_names
from elves import tiny_elf

ANY = {"host", "minimal", "x86-64-v1"}
V2, V3, V4 = ANY | {"x86-64-v2"}, ANY | {"x86-64-v2", "x86-64-v3"}, ANY | {"x86-64-v2", "x86-64-v3", "x86-64-v4"}
TO_BROADWELL = {"nehalem", "sandybridge", "ivybridge", "haswell", "broadwell"}
K10 = {"k10", "barcelona"}
ZEN, ZEN2, ZEN3 = {"zen", "naples"}, {"zen2", "rome"}, {"zen3", "milan"}
GIVES = {
    "amd-k10": ANY | K10,
    "amd-bulldozer": V2 | K10 | {"bulldozer", "nehalem"},
    "amd-naples": V3 | K10 | ZEN | {"nehalem"},
    "amd-rome": V3 | K10 | ZEN | ZEN2 | {"nehalem"},
    "amd-milan": V3 | K10 | ZEN | ZEN2 | ZEN3 | {"nehalem", "sandybridge"},
    "amd-genoa": V4
    | K10
    | ZEN
    | ZEN2
    | ZEN3
    | TO_BROADWELL
    | {"zen4", "genoa", "skylake-server", "cascadelake", "icelake-server"},
    "intel-nehalem": V2 | {"nehalem"},
    "intel-broadwell": V3 | TO_BROADWELL,
    "intel-alder-lake": V3 | TO_BROADWELL,
    "intel-skylake-sp": V4 | TO_BROADWELL | {"skylake-server"},
    "intel-cascade-lake-sp": V4 | TO_BROADWELL | {"skylake-server", "cascadelake"},
    "intel-ice-lake-sp": V4 | TO_BROADWELL | {"skylake-server", "cascadelake", "icelake-server"},
    "intel-sapphire-rapids": V4 | TO_BROADWELL | {"skylake-server", "cascadelake", "icelake-server", "sapphirerapids"},
}
LACKS = {
    ("amd-k10", "x86-64-v2"): "SSSE3 SSE4_1 SSE4_2",
    ("amd-bulldozer", "x86-64-v3"): "FMA MOVBE F16C BMI1 AVX2 BMI2",
    ("amd-naples", "sandybridge"): "PCID",
    ("amd-naples", "zen2"): "CLWB UMIP RDPID WBNOINVD AMD_IBPB AMD_STIBP AMD_SSBD",
    ("amd-milan", "haswell"): "ERMS",
    ("amd-milan", "x86-64-v4"): "AVX512F AVX512DQ AVX512CD AVX512BW AVX512VL",
    ("amd-genoa", "bulldozer"): "XOP FMA4",
    ("intel-skylake-sp", "cascadelake"): "AVX512_VNNI",
    ("intel-ice-lake-sp", "sapphirerapids"): "BUS_LOCK_DETECT CLDEMOTE MOVDIRI MOVDIR64B SERIALIZE AVX512_FP16 "
    "AVX_VNNI AVX512_BF16",
    ("intel-broadwell", "k10"): "ALT_MOV_CR8 SSE4A MISALIGN_SSE OSVW MMX_EXT FFXSR",
    ("intel-broadwell", "skylake-server"): "AVX512F AVX512DQ CLFLUSHOPT CLWB AVX512CD AVX512BW AVX512VL PKU XSAVEC "
    "XGETBV1 XSAVES",
}


@pytest.fixture
def kernel(tmp_path):
    return tiny_elf(tmp_path / "vmlinux", code=b"\xf4")


@pytest.mark.parametrize("name", host_names())
def test_a_host_can_give_the_models_of_its_own_generation_and_before(name):
    assert set(fitting_models(host_facts(name))) == GIVES[name]


def test_the_generic_facts_are_those_of_the_lowest_level():
    assert set(fitting_models(FACTS)) == ANY


@pytest.mark.parametrize(("host", "name"), LACKS)
def test_a_refusal_names_each_bit_that_is_missing_and_the_way_out(host, name, kernel):
    with pytest.raises(ConfigError) as caught:
        anyvisor.assemble(MachineConfig(kernel=kernel, cpu=name), host_facts(host))
    text = str(caught.value)
    missing = LACKS[host, name].split()
    start = f"CPU model {name}: a guest of kvm on this host cannot have {len(missing)} of the things that it asks for: "
    assert text.startswith(start)
    groups = [each.split(": ") for each in text[len(start) :].partition("; take a model")[0].split("; ")]
    named = [re.sub(r"\((.*)\)", rf"({register} \1)", each) for register, bits in groups for each in bits.split(", ")]
    assert named == [f"{each} ({Feature[each].place})" for each in missing]
    assert len({register for register, _ in groups}) == len(groups)
    assert text.endswith(f"a template that extends {name} and does without these")
    offered = re.search(r"that it can have \((.*?)\)", text)[1].split(", ")
    assert set(offered) == GIVES[host]


@pytest.mark.parametrize("name", model_names())
def test_every_model_plans_on_every_host_that_can_give_it(name, kernel):
    hosts = [host for host in host_names() if name in GIVES[host]]
    assert hosts
    for host in hosts:
        config = MachineConfig(kernel=kernel, cpu=name, vcpus=4, topology=Topology(cores=2, threads=2))
        plan = anyvisor.assemble(config, host_facts(host))
        tables = [vcpu.state(Cpuid) for vcpu in plan.vcpus]
        assert [table.apic_id for table in tables] == [0, 1, 2, 3]
        asked = cpu_model(name).template.features
        assert all(asked <= table.features for table in tables)
        assert tables[0].features <= host_facts(host).supported_state(Cpuid).features | {
            Feature.HYPERVISOR,
            Feature.HTT,
            Feature.CMP_LEGACY,
            Feature.TOPOLOGY_EXTENSIONS,
            Feature.TSC_DEADLINE,
        }


MACHINES = {
    "nehalem": "intel-nehalem",
    "broadwell": "intel-broadwell",
    "skylake-server": "intel-skylake-sp",
    "cascadelake": "intel-cascade-lake-sp",
    "icelake-server": "intel-ice-lake-sp",
    "sapphirerapids": "intel-sapphire-rapids",
    "zen": "amd-naples",
    "zen2": "amd-rome",
    "zen3": "amd-milan",
    "zen4": "amd-genoa",
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_model_has_the_caches_family_and_leaves_of_a_machine_of_its_generation(name):
    facts = host_facts(MACHINES[name])
    table, machine = cpu_model(name).cpuid(facts), facts.supported_state(Cpuid)
    assert (table.vendor, table.family, table.model) == (machine.vendor, machine.family, machine.model)
    leaf = 4 if table.vendor == "GenuineIntel" else 0x8000_001D
    shapes = [
        [(each.eax & 0xFF, each.ebx, each.ecx) for each in both.subleaves(leaf) if each.eax]
        for both in (table, machine)
    ]
    if name in ("nehalem", "broadwell"):  # another size of the same generation
        shapes = [each[:3] for each in shapes]
    assert shapes[0] == shapes[1]
    assert table[0xD].registers == machine[0xD].replace(ebx=table[0xD].ebx).registers or name in LESS_XSAVE
    assert table.max_leaf <= machine.max_leaf


LESS_XSAVE = {"skylake-server", "cascadelake", "sapphirerapids"}
"""The machines have MPX and AMX."""


LEFT_OUT = re.compile(
    r"KVM_|SVM|VMX|PDCM|DS|DTES64|PERF_CTR|INVARIANT_TSC|SS$|HLE|RTM|TSXLDTRK|MPX|AMX|XFD|TSC_ADJUST|UMIP|CMP_LEGACY|"
    r"TOPOLOGY_EXT|HYPERVISOR|AMD_(IBPB|IBRS|STIBP|SSBD)|SPEC_CTRL|STIBP|SSBD|ARCH_CAPABILITIES|PDPE1GB"
)
"""What a machine has and its model leaves out: KVM's own, nested guests, counters, what microcode took away or brought
from the other maker, AMX, and what KVM emulates on any processor."""


@pytest.mark.parametrize("name", MACHINES)
def test_a_model_has_every_feature_of_a_machine_of_its_generation(name):
    model, machine = cpu_model(name), host_facts(MACHINES[name]).supported_state(Cpuid)
    lost = machine.features - model.template.features - model.template.optional
    assert {each.name for each in lost if not LEFT_OUT.match(each.name)} == set()
    assert len(machine.features & model.template.features) > 30


@pytest.mark.parametrize(("name", "host"), [("k10", "amd-k10"), ("bulldozer", "amd-bulldozer")])
def test_an_older_model_has_the_caches_of_a_machine_of_its_generation(name, host):
    table, machine = cpu_model(name).cpuid(host_facts(host)), host_facts(host).supported_state(Cpuid)
    assert table[0x8000_0005].registers[2:] == machine[0x8000_0005].registers[2:]
    assert table[0x8000_0006].registers[2:] == machine[0x8000_0006].registers[2:]


def test_the_default_is_the_host(kernel):
    facts = host_facts("intel-ice-lake-sp")
    assert anyvisor.assemble(MachineConfig(kernel=kernel), facts) == anyvisor.assemble(
        MachineConfig(kernel=kernel, cpu="host"), facts
    )


@pytest.mark.parametrize(("name", "page_bytes"), [("host", GIB), ("haswell", GIB), ("x86-64-v3", 2 * MIB)])
def test_page_tables_are_made_for_the_guest_s_processor(name, page_bytes, kernel):
    plan = anyvisor.assemble(MachineConfig(kernel=kernel, cpu=name), host_facts("intel-broadwell"))
    assert plan.vcpus[0].state(Cpuid).has(Feature.PDPE1GB) == (page_bytes == GIB)
    (tables,) = [blob for blob in plan.blobs if blob.name == "page tables"]

    def read(address, size):
        return tables.read(address - tables.guest_address, size)

    assert walk_memory(read, tables.guest_address, 5 * MIB).page_bytes == page_bytes


def test_ram_beyond_the_guest_s_addresses_is_refused(kernel, tmp_path):
    template = tmp_path / "narrow.toml"
    template.write_text('extends = "haswell"\nphysical_bits = 36')
    facts = host_facts("intel-broadwell")
    anyvisor.assemble(MachineConfig(kernel=kernel, cpu=str(template), memory="63G"), facts)
    with pytest.raises(ConfigError, match=r"beyond the 36 address bits of the guest's processor \(64G\)"):
        anyvisor.assemble(MachineConfig(kernel=kernel, cpu=str(template), memory="64G"), facts)
    anyvisor.assemble(MachineConfig(kernel=kernel, cpu="haswell", memory="64G"), facts)


def test_msrs_of_the_model_are_in_the_plan_of_every_vcpu(kernel, tmp_path):
    template = tmp_path / "msrs.toml"
    template.write_text('extends = "host"\n[[msr]]\nindex = "misc_enable"\nvalue = 0x801')
    plan = anyvisor.assemble(MachineConfig(kernel=kernel, cpu=str(template), vcpus=2), host_facts("amd-rome"))
    assert [vcpu.state(Msrs)[Msr.MISC_ENABLE] for vcpu in plan.vcpus] == [0x801, 0x801]


def test_a_template_that_is_wrong_is_a_mistake_in_the_configuration(kernel, tmp_path):
    template = tmp_path / "wrong.toml"
    template.write_text('extends = "host"\nremove = [\n  "avx99",\n]')
    with pytest.raises(ConfigError, match=r"wrong.toml:3: remove: there is no feature 'avx99'; near it: avx"):
        anyvisor.assemble(MachineConfig(kernel=kernel, cpu=str(template)), FACTS)


def test_a_guest_of_another_maker_is_noted():
    assert cpu_model("haswell").notes(host_facts("intel-broadwell")) == ()
    assert cpu_model("x86-64-v3").notes(host_facts("amd-rome")) == ()
    (note,) = cpu_model("nehalem").notes(host_facts("amd-rome"))
    assert "one of GenuineIntel, and it is one of AuthenticAMD" in note


def test_facts_of_two_hosts_have_the_tsc_s_speed_in_common_only_if_it_is_the_same():
    first, second = (attrs.evolve(FACTS, guest_tsc_khz=khz) for khz in (2_000_000, 2_100_000))
    assert anyvisor.common_facts(first, first).guest_tsc_khz == 2_000_000
    assert anyvisor.common_facts(first, second).guest_tsc_khz == 0


def test_tables_tell_of_the_apics_of_the_model_and_not_of_the_host(kernel, tmp_path):
    template = tmp_path / "no-apic.toml"
    template.write_text('extends = "minimal"\nremove = ["apic"]')
    facts = host_facts("amd-genoa")
    config = MachineConfig(kernel=kernel, tables="both")
    names = [
        {blob.name for blob in anyvisor.assemble(config.replace(cpu=cpu), facts).blobs}
        for cpu in ("minimal", str(template))
    ]
    assert names[0] - names[1] == {"mp table", "mp pointer", "MADT"}


def test_a_model_without_long_mode_is_none_for_a_kernel_that_starts_in_it(kernel, tmp_path):
    template = tmp_path / "empty.toml"
    template.write_text("")
    with pytest.raises(ConfigError, match=r"cpu: linux64 starts a kernel in long mode, and the processor .* has none"):
        anyvisor.assemble(MachineConfig(kernel=kernel, cpu=str(template)), host_facts("amd-genoa"))
