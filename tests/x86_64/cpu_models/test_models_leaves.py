"""The leaves of a model: raw bits, caches, addresses, the XSAVE area, the hypervisor's own; and its MSRs."""

import attrs
import pytest

from anyvisor.config import Topology
from anyvisor.errors import ConfigError
from anyvisor.x86_64.cpu_models import cpu_model, host_for
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.cpuid_policy import for_vcpu
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.msrs import Msr, Msrs, boot_msrs
from anyvisor_mock.host_facts import host_facts

ONE = Topology()


# -- leaves --------------------------------------------------------------------------------------------------


def test_raw_bits_stand_as_they_were_given(model):
    facts = host_facts("intel-broadwell")
    table = model(
        'extends = "haswell"\n[[leaf]]\nleaf = 0x2\neax = 0x76036301\n'
        "[[leaf]]\nleaf = 0x8000_0006\necx = { mask = 0xF000, value = 0x4000 }\n"
        "[[leaf]]\nleaf = 4\nsubleaf = 7\nebx = 0x55"
    ).cpuid(facts)
    before = cpu_model("haswell").cpuid(facts)
    assert table[2] == CpuidEntry(2, eax=0x76036301)
    assert table[0x80000006].ecx == before[0x80000006].ecx & ~0xF000 | 0x4000
    assert table[4, 7].ebx == 0x55


def test_raw_bits_that_are_features_are_checked_like_them(model):
    text = 'extends = "haswell"\n[[leaf]]\nleaf = 0x80000021\neax = 0x41\n[[leaf]]\nleaf = 7\nebx = '
    facts = host_facts("intel-broadwell")
    cut = "max_extended_leaf = 0x8000_0021\n"
    missing = model(cut + text + "{ mask = 0x2000_0000, value = 0x2000_0000 }").missing(facts)
    assert [str(each) for each in missing] == [
        "SHA (0x7 EBX bit 29)",
        "0x80000021 EAX bit 0",
        "0x80000021 EAX bit 6",
    ]


def test_a_raw_bit_can_be_taken_away(model):
    text = 'extends = "haswell"\n[[leaf]]\nleaf = 7\nebx = { mask = 0x20, value = 0 }'
    table = model(text).cpuid(host_facts("intel-broadwell"))
    assert not table.has(Feature.AVX2) and table.has(Feature.BMI2)


def test_features_beyond_the_last_leaf_are_refused(model):
    with pytest.raises(ConfigError, match="xsave needs max_leaf = 0xd or more, and it is 0xb; raise it"):
        model('extends = "nehalem"\nfeatures = ["xsave", "xsaveopt"]').cpuid(host_facts("intel-broadwell"))


def test_raw_bits_beyond_the_last_leaf_are_refused(model):
    raw = "[[leaf]]\nleaf = 0x15\neax = 2\n"
    with pytest.raises(
        ConfigError, match=r"template.toml:2: \[\[leaf\]\] 0x15 needs max_leaf = 0x15 or more, and it is 0x14"
    ):
        model(f'extends = "haswell"\nmax_leaf = 0x14\n{raw}').cpuid(host_facts("intel-broadwell"))
    table = model(f'extends = "haswell"\nmax_leaf = 0x15\n{raw}').cpuid(host_facts("intel-broadwell"))
    assert (table.max_leaf, table[0x15].eax) == (0x15, 2)


def test_each_range_ends_with_the_last_leaf_that_says_something():
    table = cpu_model("x86-64-v3").cpuid(host_facts("intel-broadwell"))
    assert (table.max_leaf, table.max_extended_leaf) == (0xD, 0x80000008)
    assert cpu_model("x86-64-v2").cpuid(host_facts("intel-broadwell")).max_leaf == 0xB
    assert cpu_model("minimal").cpuid(host_facts("amd-rome")).max_extended_leaf == 0x8000001E
    assert cpu_model("sapphirerapids").cpuid(host_facts("intel-sapphire-rapids"))[7].eax == 2
    assert cpu_model("haswell").cpuid(host_facts("intel-broadwell"))[7].eax == 0


def test_caches_are_those_of_the_template_and_shared_as_the_topology_says():
    facts = host_facts("intel-skylake-sp")
    topology = Topology(cores=4, threads=2)
    table = for_vcpu(facts, topology, 3, cpu_model("skylake-server").cpuid(facts))
    assert [each.ecx + 1 for each in table.subleaves(4)] == [64, 64, 1024, 36864, 1]
    assert [each.ebx >> 22 for each in table.subleaves(4)][:4] == [7, 7, 15, 10]
    assert [each.eax >> 14 & 0xFFF for each in table.subleaves(4)][:4] == [1, 1, 1, 7]
    assert [each.eax & 0x1FF for each in table.subleaves(4)] == [0x121, 0x122, 0x143, 0x163, 0]


HUGE = """
cache = [
    { level = 1, type = "data", size = "1M", ways = 512, line = 512 },
    { level = 2, size = "160M", ways = 20, line = 512 },
    { level = 3, size = "20G", ways = 20, line = 512 },
]
"""


def test_what_is_too_large_for_the_older_leaves_is_the_most_that_they_hold(model):
    amd, intel = (model(f'extends = "{name}"\n{HUGE}') for name in ("zen2", "haswell"))
    table = amd.cpuid(host_for(amd.template))
    assert table[0x8000_0005].registers == (0, 0, 0xFF_FF_01_FF, 0)
    assert table[0x8000_0006].registers == (0, 0, 0xFFFF_91_FF, 0x3FFF << 18 | 0x91FF)
    assert [each.ecx + 1 for each in table.subleaves(0x8000_001D)] == [4, 1 << 14, 1 << 21, 1]
    table = intel.cpuid(host_for(intel.template))
    assert table[0x8000_0006].ecx == 0xFFFF_70_FF


def test_linear_bits_go_with_the_feature_for_them(model):
    facts = host_facts("intel-ice-lake-sp")
    with pytest.raises(ConfigError, match="linear_bits = 57: there are 57 with the feature la57, and 48 without"):
        model('extends = "haswell"\nlinear_bits = 57').cpuid(facts)
    assert cpu_model("icelake-server").cpuid(facts)[Leaf.ADDRESS_SIZES].eax == 57 << 8 | 46


def test_physical_bits_are_the_host_s_or_fewer(model):
    facts = host_facts("intel-broadwell")
    assert cpu_model("haswell").cpuid(facts).physical_address_bits == 46
    assert model('extends = "haswell"\nphysical_bits = 39').cpuid(facts).physical_address_bits == 39
    with pytest.raises(ConfigError, match=r"physical_bits \(48 asked for, and the host has 46\)"):
        model('extends = "haswell"\nphysical_bits = 48').cpuid(facts)


# -- XSAVE ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "name", "xcr0", "size", "places"),
    [
        ("intel-sapphire-rapids", "x86-64-v3", 0x7, 0x340, {2: 0x240}),
        ("intel-sapphire-rapids", "x86-64-v4", 0xE7, 0xA80, {2: 0x240, 5: 0x440, 6: 0x480, 7: 0x680}),
        ("amd-genoa", "x86-64-v4", 0xE7, 0x980, {2: 0x240, 5: 0x340, 6: 0x380, 7: 0x580}),
        ("amd-genoa", "zen3", 0x207, 0x988, {2: 0x240, 9: 0x980}),
        ("intel-skylake-sp", "skylake-server", 0x2E7, 0xA88, {2: 0x240, 5: 0x440, 6: 0x480, 7: 0x680, 9: 0xA80}),
    ],
)
def test_the_xsave_area_has_the_components_of_the_features_where_the_host_has_them(host, name, xcr0, size, places):
    table = cpu_model(name).cpuid(host_facts(host))
    assert (table[0xD].eax, table[0xD].ecx) == (xcr0, size)
    assert {each.subleaf: each.ebx for each in table.subleaves(0xD) if each.subleaf > 1} == places


def test_a_model_without_xsave_has_no_leaf_for_it():
    assert cpu_model("nehalem").cpuid(host_facts("intel-broadwell")).subleaves(0xD) == ()


def test_features_that_need_xsave_do_not_come_without_it(model):
    with pytest.raises(ConfigError, match=r"toml:3: without XSAVE there is no avx, avx2, f16c, fma; add xsave"):
        model('extends = "haswell"\nremove = [\n"xsave", "xsaveopt"]').cpuid(host_facts("intel-broadwell"))
    with pytest.raises(ConfigError, match="toml:2: without XSAVE there is no avx2; add xsave"):
        model('extends = "x86-64-v2"\nfeatures = ["avx2"]').cpuid(host_facts("intel-broadwell"))


def test_a_component_that_the_host_has_no_place_for_is_missing(model):
    facts = host_facts("intel-broadwell")
    table = facts.supported_state(Cpuid)
    broken = attrs.evolve(facts, supported=(table.replace(table[0xD].replace(eax=3)),))
    assert [str(each) for each in cpu_model("haswell").missing(broken)] == ["0xd EAX bit 2"]


def test_the_components_of_shadow_stacks_are_the_supervisor_s(model):
    template = model('extends = "icelake-server"\nfeatures = ["cet_ss", "cet_ibt"]')
    table = template.cpuid(host_for(template.template))
    assert table[0xD, 1].ecx == 0x1800
    assert [each.subleaf for each in table.subleaves(0xD)] == [0, 1, 2, 5, 6, 7, 9, 11, 12]


def test_components_of_the_supervisor_take_no_room_in_the_standard_area(model):
    template = model('extends = "x86-64-v2"\nfeatures = ["xsave", "xsavec", "xsaves", "arch_lbr"]')
    table = template.cpuid(host_for(template.template))
    assert (table[0xD].eax, table[0xD].ecx, table[0xD, 1].ecx) == (3, 576, 1 << 15)
    assert table[0xD, 15].eax == 808


# -- the hypervisor ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["host", "x86-64-v2", "broadwell"])
def test_the_hypervisor_shows_itself_and_says_how_fast_time_goes(name):
    facts = attrs.evolve(host_facts("intel-broadwell"), guest_tsc_khz=2_100_000)
    table = for_vcpu(facts, ONE, 0, cpu_model(name).cpuid(facts))
    assert (table.hypervisor, table[Leaf.HYPERVISOR].eax) == ("KVMKVMKVM", 0x4000_0010)
    assert table[0x4000_0010].registers == (2_100_000, 1_000_000, 0, 0)
    assert table[Leaf.KVM_FEATURES].eax == facts.supported_state(Cpuid)[Leaf.KVM_FEATURES].eax


def test_a_speed_that_nobody_knows_is_not_told():
    table = cpu_model("broadwell").cpuid(host_facts("intel-broadwell"))
    assert (table[Leaf.HYPERVISOR].eax, table.get(0x4000_0010)) == (0x4000_0001, None)


def test_the_speed_that_a_guest_could_not_measure_comes_first():
    facts = attrs.evolve(host_facts("intel-broadwell"), guest_tsc_khz=2_100_000, tsc_khz=2_000_000)
    assert cpu_model("host").cpuid(facts)[0x4000_0010].eax == 2_000_000


def test_a_hypervisor_that_does_not_show_itself_tells_no_speed():
    facts = attrs.evolve(FACTS, tsc_khz=2_000_000)
    assert cpu_model("x86-64-v1").cpuid(facts).get(0x4000_0010) is None


def test_a_model_can_hide_the_hypervisor_s_leaves(model):
    facts = attrs.evolve(host_facts("intel-broadwell"), guest_tsc_khz=2_100_000)
    for hidden in (cpu_model("minimal"), model('extends = "host"\n[hypervisor]\nleaves = "none"')):
        table = for_vcpu(facts, ONE, 0, hidden.cpuid(facts))
        assert table.hypervisor == "" and table.has(Feature.HYPERVISOR)
        assert [each for each in table if 0x4000_0000 <= each.leaf < 0x4000_0100] == []
    quiet = model('extends = "host"\n[hypervisor]\ntiming = false').cpuid(facts)
    assert (quiet.hypervisor, quiet.get(0x4000_0010)) == ("KVMKVMKVM", None)


# -- MSRs ----------------------------------------------------------------------------------------------------


def test_msrs_of_a_template_stand_over_those_of_firmware(model):
    text = '[[msr]]\nindex = "misc_enable"\nvalue = 0x801\n[[msr]]\nindex = "pat"\nvalue = 0x7040600070406'
    msrs = model(f'extends = "host"\n{text}').msrs(host_facts("intel-broadwell"))
    assert msrs == boot_msrs().replace({Msr.MISC_ENABLE: 0x801, Msr.PAT: 0x7040600070406})
    assert cpu_model("zen4").msrs(host_facts("amd-genoa")) == boot_msrs()


def test_an_msr_that_the_host_s_vcpus_do_not_have_is_refused(model):
    facts = host_facts("amd-k10")
    assert Msr.XSS not in facts.supported_state(Msrs)
    template = model('extends = "k10"\n[[msr]]\nindex = "XSS"\nvalue = 0\n[[msr]]\nindex = 0x1234\nvalue = 0')
    assert [str(each) for each in template.missing(facts)] == ["IA32_XSS (MSR 0xda0)"]
    for ask in (template.msrs, template.cpuid):
        with pytest.raises(ConfigError, match=r"IA32_XSS \(MSR 0xda0\)"):
            ask(facts)


def test_where_a_host_says_nothing_of_its_msrs_they_are_left_to_it(model):
    assert Msr.XSS in model('extends = "minimal"\n[[msr]]\nindex = "XSS"\nvalue = 0').msrs(FACTS)
