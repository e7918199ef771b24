"""From a template and a host to a CPUID table: exactly what the template says, with what only the host can say."""

import itertools

import attrs
import pytest
from cpuid_hosts import AMD, HOSTS, INTEL

from anyvisor.config import Topology
from anyvisor.errors import ConfigError, Unsupported
from anyvisor.facts import Capability
from anyvisor.x86_64.cpu_models import cpu_model, host_for, model_names
from anyvisor.x86_64.cpu_models.missing import FEATURE_REGISTERS
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.cpuid_policy import for_vcpu
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.leaves import Leaf
from anyvisor_mock.host_facts import host_facts, host_names

NAMED = [name for name in model_names() if name != "host"]
ONE = Topology()
ADDED = {Feature.HYPERVISOR}
TOPOLOGICAL = {Feature.TOPOLOGY_EXTENSIONS, Feature.HTT, Feature.CMP_LEGACY}


def facts_of(table, **changes):
    return attrs.evolve(
        FACTS, **{"supported": (table,), "physical_address_bits": table.physical_address_bits, **changes}
    )


# -- the host's own ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 4, 2)], ids=str)
@pytest.mark.parametrize("name", host_names())
def test_the_model_host_is_all_that_the_host_can_do(name, shape):
    facts, topology = host_facts(name), Topology(**dict(zip(("sockets", "cores", "threads"), shape, strict=True)))
    base = cpu_model("host").cpuid(facts)
    for vcpu in range(topology.vcpus):
        assert for_vcpu(facts, topology, vcpu, base) == for_vcpu(facts, topology, vcpu)
    assert cpu_model("host").missing(facts) == ()


def test_a_template_takes_features_away_from_the_host_and_their_components_with_them(model):
    facts = host_facts("intel-sapphire-rapids")
    less = model('extends = "host"\nremove = ["avx512*", "amx*"]').cpuid(facts)
    host = facts.supported_state(Cpuid)
    gone = {each for each in host.features if each.name.startswith(("AVX512", "AMX"))}
    assert host.features - less.features == gone
    assert (host[0xD].eax, less[0xD].eax) == (0x602E7, 0x207)
    assert [each.subleaf for each in less.subleaves(0xD)] == [0, 1, 2, 9]
    assert less[0xD].ecx == 0xA88
    assert less[0x7, 1] == host[0x7, 1].replace(eax=host[0x7, 1].eax & ~(1 << 5))


def test_without_la57_a_host_s_guest_has_48_linear_bits(model):
    facts = host_facts("intel-ice-lake-sp")
    assert cpu_model("host").cpuid(facts)[Leaf.ADDRESS_SIZES].eax >> 8 & 0xFF == 57
    assert model('extends = "host"\nremove = ["la57"]').cpuid(facts)[Leaf.ADDRESS_SIZES].eax >> 8 & 0xFF == 48


def test_a_template_gives_the_host_another_name_and_nothing_else_changes(model):
    facts = host_facts("amd-milan")
    before, after = cpu_model("host").cpuid(facts), model('extends = "host"\nbrand = "Renamed"').cpuid(facts)
    assert after.brand == "Renamed"
    assert [line for line in before.diff(after) if not line.startswith("0x8000000")] == []


def test_a_host_s_table_can_be_cut_short(model):
    facts = host_facts("intel-ice-lake-sp")
    cut = model('extends = "host"\nmax_leaf = 0xD').cpuid(facts)
    assert cut.max_leaf == 0xD
    assert max(each.leaf for each in cut if each.leaf < 0x4000_0000) == 0xD


def test_what_the_host_lacks_cannot_be_added_to_it(model):
    with pytest.raises(ConfigError, match=r"1 of the things.*0x7/1 EAX: SHA512 \(bit 0\); take"):
        model('extends = "host"\nfeatures = ["sha512", "avx2"]').cpuid(host_facts("intel-broadwell"))


def test_a_host_that_has_everything_can_be_changed(model):
    changed = model('extends = "host"\nfeatures = ["apx_f", "mpx"]\nremove = ["avx512*"]')
    table = changed.cpuid(host_for(changed.template))
    assert {Feature.APX_F, Feature.MPX, Feature.AVX2} <= table.features and Feature.AVX512F not in table.features
    spans = sorted((each.ebx, each.ebx + each.eax) for each in table.subleaves(0xD)[2:] if not each.ecx & 1)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


# -- exactly what it says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_a_guest_sees_the_model_s_features_and_no_other(name):
    model = cpu_model(name)
    facts = host_for(model.template)
    guest = for_vcpu(facts, ONE, 0, model.cpuid(facts))
    asked = model.template.features | model.template.optional
    assert guest.features - TOPOLOGICAL == (asked | ADDED) - TOPOLOGICAL
    for (leaf, subleaf), registers in FEATURE_REGISTERS.items():
        for register in registers:
            named = sum(
                1 << each.position
                for each in asked | ADDED | TOPOLOGICAL
                if (each.leaf, each.subleaf, each.register) == (leaf, subleaf, register)
            )
            raw = sum(
                patch.registers[register].value
                for patch in model.template.leaves
                if (patch.leaf, patch.subleaf) == (leaf, subleaf) and register in patch.registers
            )
            mirrored = 0x0183_F3FF if (leaf, register) == (0x8000_0001, "edx") else 0
            assert getattr(guest[leaf, subleaf], register) & ~(named | raw | mirrored) == 0


def test_optional_features_are_given_where_the_host_has_them():
    model = cpu_model("skylake-server")
    old, new = host_facts("intel-skylake-sp"), host_facts("intel-skylake-sp")
    table = new.supported_state(Cpuid)
    old = attrs.evolve(old, supported=(table.without(Feature.MD_CLEAR, Feature.SSBD),))
    assert model.cpuid(new).features - model.cpuid(old).features == {Feature.MD_CLEAR, Feature.SSBD}


def test_the_apic_timer_has_a_tsc_deadline_only_in_a_model_that_has_one(model):
    facts = host_facts("intel-broadwell")
    assert facts.has(Capability.TSC_DEADLINE)
    without = model('extends = "haswell"\nremove = ["tsc_deadline"]').cpuid(facts)
    assert not for_vcpu(facts, ONE, 0, without).has(Feature.TSC_DEADLINE)
    assert for_vcpu(facts, ONE, 0, cpu_model("haswell").cpuid(facts)).has(Feature.TSC_DEADLINE)
    lacking = attrs.evolve(facts, capabilities=facts.capabilities - {Capability.TSC_DEADLINE})
    with pytest.raises(ConfigError, match=r"0x1 ECX: TSC_DEADLINE \(bit 24\)"):
        cpu_model("haswell").cpuid(lacking)


def test_what_no_guest_gets_cannot_be_asked_for(model):
    facts = host_facts("intel-broadwell")
    assert facts.supported_state(Cpuid).has(Feature.PDCM)
    with pytest.raises(ConfigError, match=r"0x1 ECX: PDCM \(bit 15\)"):
        model('extends = "haswell"\nfeatures = ["pdcm"]').cpuid(facts)


def test_x2apic_needs_the_hypervisor_s_own_local_apics():
    facts = host_facts("intel-broadwell")
    without = attrs.evolve(facts, capabilities=facts.capabilities - {Capability.IRQCHIP})
    assert [str(each) for each in cpu_model("haswell").missing(without)] == ["X2APIC (0x1 ECX bit 21)"]
    assert cpu_model("x86-64-v3").missing(without) == ()


@pytest.mark.parametrize(("name", "host"), [("minimal", AMD), ("x86-64-v3", INTEL), ("x86-64-v1", HOSTS["Hygon"])])
def test_a_neutral_model_has_the_host_s_maker_family_and_model(name, host):
    table = cpu_model(name).cpuid(facts_of(host))
    assert (table.vendor, table.family, table.model, table.stepping) == (
        host.vendor,
        host.family,
        host.model,
        host.stepping,
    )
    assert table.brand.startswith("anyvisor ")


@pytest.mark.parametrize("name", NAMED)
def test_a_model_s_maker_family_model_stepping_and_name_are_those_it_says(name):
    model = cpu_model(name)
    said, table = model.template, model.cpuid(host_for(model.template))
    if said.vendor != "host":
        assert (table.vendor, table.family, table.model, table.stepping) == (
            said.vendor,
            said.family,
            said.model,
            said.stepping,
        )
    assert table.brand == said.brand


def test_amd_s_leaves_repeat_maker_signature_and_features():
    table = cpu_model("zen3").cpuid(host_facts("amd-milan"))
    assert table[0x8000_0000].registers[1:] == table[0].registers[1:]
    assert table[0x8000_0001].eax == table[1].eax == 0xA00F11
    assert table[0x8000_0001].edx & 0x0183_F3FF == table[1].edx & 0x0183_F3FF
    intel = cpu_model("haswell").cpuid(host_facts("intel-broadwell"))
    assert intel[0x8000_0000].registers[1:] == (0, 0, 0)
    assert intel[0x8000_0001].edx & 0x0183_F3FF == 0


def test_a_model_of_a_family_without_large_models_is_refused(model):
    with pytest.raises(ConfigError, match=r"template.toml:3: model 0x10: only families 6 and from 15 up"):
        model('extends = "k10"\nfamily = 5\nmodel = 16').cpuid(host_facts("amd-k10"))


# -- the rest ------------------------------------------------------------------------------------------------


def test_a_host_without_a_table_is_no_host_for_a_model():
    with pytest.raises(Unsupported, match="says nothing about the Cpuid"):
        cpu_model("haswell").cpuid(attrs.evolve(FACTS, supported=()))


def test_a_table_is_made_once_for_all_vcpus(tmp_path):
    facts = host_facts("amd-genoa")
    (tmp_path / "mine.toml").write_text('extends = "zen4"\nremove = ["sha"]')
    for name in ("zen4", str(tmp_path / "mine.toml")):
        first = cpu_model(name).cpuid(facts)
        assert all(cpu_model(name).cpuid(facts) is first for _ in range(1024))


def test_tables_of_other_hosts_are_other_tables():
    hosts = [host_facts(name) for name in host_names() if not cpu_model("x86-64-v2").missing(host_facts(name))]
    tables = [cpu_model("x86-64-v2").cpuid(facts) for facts in hosts]
    assert len(hosts) > 5
    assert [cpu_model("x86-64-v2").cpuid(facts) for facts in hosts] == tables
    assert len(cpu_model("x86-64-v2")._tables) <= 4 < len(hosts)
    assert len({table.model for table in tables}) > 5
