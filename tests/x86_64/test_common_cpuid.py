"""What two processors have in common; the hosts are real tables and what can be made of them."""

import itertools

import pytest
from cpuid_hosts import AMD, HOSTS, INTEL, OLDER
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvisor.config import Topology
from anyvisor.x86_64.chips import Clock
from anyvisor.x86_64.common import common_cpuid, common_state
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.cpuid_policy import guest_cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.msrs import Msr, Msrs

ALL = {**HOSTS, **OLDER, "generic": FACTS.supported_state(Cpuid)}
PAIRS = list(itertools.permutations(ALL, 2))
XCR0 = 0xD

GO_TOGETHER = (
    "AVX", "FMA", "F16C", "XOP", "VAES", "VPCLMUL", "SHA512", "SM3", "SM4", "MPX", "PKU", "OSPKE", "AMX", "APX", "KVM",
)  # fmt: skip
"""Features that both hosts may have and that still are not common: with XCR0, or with all that a hypervisor says."""

hosts = st.sampled_from(sorted(ALL)).map(ALL.get)


@st.composite
def odd_hosts(draw):
    """A host with some features less, some leaves less, and components elsewhere."""
    table = draw(hosts).without(*draw(st.sets(st.sampled_from(list(Feature)), max_size=12)))
    table = table.drop(*draw(st.sets(st.sampled_from([each.leaf for each in table]), max_size=4)))
    moved = [each for each in table.subleaves(XCR0) if each.subleaf >= 2 and draw(st.integers(0, 3)) == 0]
    return table.replace(*(each.replace(ebx=each.ebx + 64) for each in moved))


def said_by_both(feature, first, second):
    return bool(first.get(feature.leaf, feature.subleaf) and second.get(feature.leaf, feature.subleaf))


def xcr0(table):
    return table[XCR0].eax | table[XCR0].edx << 32


@pytest.mark.parametrize("name", ALL)
def test_a_host_has_all_of_itself_in_common_with_itself(name):
    assert ALL[name].diff(common_cpuid(ALL[name], ALL[name])) == []


@pytest.mark.parametrize("feature", list(Feature), ids=lambda each: each.name)
def test_a_feature_that_one_host_lacks_is_not_common(feature):
    host = Cpuid(tuple(CpuidEntry(*place) for place in {(each.leaf, each.subleaf) for each in Feature}))
    host = host.replace(CpuidEntry(0xD, 0, 7, 576, 832), CpuidEntry(0xD, 2, 256, 576))
    able = host.with_(feature)
    assert not common_cpuid(able, host).has(feature)
    assert not common_cpuid(host, able).has(feature)


@given(odd_hosts(), odd_hosts())
def test_what_is_common_is_what_both_have_and_nothing_more(first, second):
    common = common_cpuid(first, second)
    lost = (first.features & second.features) - common.features
    assert common.features <= first.features & second.features
    assert xcr0(common) & ~(xcr0(first) & xcr0(second)) == 0
    assert all(each.name.startswith(GO_TOGETHER) or not said_by_both(each, first, second) for each in lost)
    assert common.max_leaf <= min(first.max_leaf or 1 << 32, second.max_leaf or 1 << 32)
    assert {(each.leaf, each.subleaf) for each in common} <= {(each.leaf, each.subleaf) for each in first}
    assert {each.leaf for each in common} <= {each.leaf for each in second}


def test_without_the_table_of_components_nothing_that_needs_one_is_common():
    intel = ALL["Intel"]
    assert intel.has(Feature.AVX2)
    for first, second in ((intel, intel.drop(XCR0)), (intel.drop(XCR0), intel)):
        assert not common_cpuid(first, second).has(Feature.AVX2)
        assert common_cpuid(first, second).has(Feature.SSE2)


@given(odd_hosts(), odd_hosts())
def test_once_is_enough(first, second):
    common = common_cpuid(first, second)
    for other in (first, second, common):
        assert common.diff(common_cpuid(common, other)) == []


@given(odd_hosts(), odd_hosts(), odd_hosts())
@settings(max_examples=50)
def test_the_order_of_the_hosts_makes_no_difference_to_what_a_guest_can_do(first, second, third):
    found = [common_cpuid(common_cpuid(a, b), c) for a, b, c in itertools.permutations((first, second, third))]
    assert len({each.features for each in found}) == 1
    assert len({(xcr0(each), each[XCR0].ecx, each.max_leaf, each.max_extended_leaf) for each in found}) == 1
    assert len({each[0x8000_0008].eax for each in found}) == 1


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=" ".join)
def test_the_processor_is_the_first_with_the_limits_of_both(first, second):
    a, b = ALL[first], ALL[second]
    common = common_cpuid(a, b)
    assert (common.vendor, common.family, common.model, common.brand) == (a.vendor, a.family, a.model, a.brand)
    assert common.max_leaf == min(a.max_leaf, b.max_leaf)
    assert common.max_extended_leaf == min(a.max_extended_leaf, b.max_extended_leaf)
    assert common.physical_address_bits == min(a.physical_address_bits, b.physical_address_bits)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=" ".join)
def test_a_guest_of_any_size_can_be_planned_with_it(first, second):
    guest = guest_cpuid(common_cpuid(ALL[first], ALL[second]), Topology(cores=2, threads=2), 3, tsc_deadline=False)
    assert guest.features & {Feature.LM, Feature.NX, Feature.SSE2, Feature.PAE} == {
        Feature.LM, Feature.NX, Feature.SSE2, Feature.PAE,
    }  # fmt: skip
    assert guest.apic_id == 3


def test_components_that_lie_elsewhere_are_not_common_and_neither_is_what_needs_them():
    """AVX-512 is at 0x340 on the one and at 0x440 on the other; AVX is in the same place on all."""
    avx = Feature.AVX, Feature.AVX512F
    amd, intel = (host.with_(*avx) for host in (AMD, INTEL))
    common = common_cpuid(intel, amd)
    assert (xcr0(amd), xcr0(intel), xcr0(common)) == (0xE7, 0x2E7, 0x7)
    assert (common.has(Feature.AVX), common.has(Feature.AVX512F)) == (True, False)
    assert (common[XCR0].ebx, common[XCR0].ecx) == (832, 832)
    same = common_cpuid(intel, intel.without(Feature.PKU))
    assert (xcr0(same), same.has(Feature.AVX512F), same[XCR0].ecx) == (0x2E7, True, 0xA88)


def test_avx_512_is_lost_with_avx():
    moved = INTEL.replace(INTEL[XCR0, 2].replace(ebx=640))
    common = common_cpuid(INTEL, moved)
    assert xcr0(common) == 0x203
    assert not common.features & {Feature.AVX, Feature.AVX2, Feature.FMA, Feature.AVX512F, Feature.VAES}
    assert common.has(Feature.PKU)


def test_what_a_hypervisor_says_of_itself_is_common_only_where_it_is_the_same():
    assert common_cpuid(AMD, INTEL).hypervisor == "KVMKVMKVM"
    assert common_cpuid(AMD, INTEL).has(Feature.KVM_CLOCKSOURCE)
    newer = INTEL.replace(INTEL[0x4000_0001].replace(eax=1))
    assert not common_cpuid(AMD, newer).has(Feature.KVM_CLOCKSOURCE)
    assert common_cpuid(AMD, INTEL.drop(0x4000_0000, 0x4000_0001)).hypervisor == ""


def test_frequencies_and_counters_are_common_only_where_they_are_the_same():
    slower = INTEL.replace(INTEL[0x16].replace(eax=1000))
    common = common_cpuid(INTEL, slower)
    assert common.get(0x16) is None
    assert (common[0x15], common[0xA]) == (INTEL[0x15], INTEL[0xA])


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [
        (0x3030, 0x392E, 0x302E),
        (0x00_30_34, 0x30_30_34, 0x30_34),
        (0x30_39_34, 0x30_39_34, 0x30_39_34),
    ],
)
def test_addresses_are_as_wide_as_on_the_narrower_host(first, second, common):
    hosts = [AMD.replace(AMD[0x8000_0008].replace(eax=eax)) for eax in (first, second)]
    assert common_cpuid(*hosts)[0x8000_0008].eax == common
    assert common_cpuid(*reversed(hosts))[0x8000_0008].eax == common


def test_msrs_are_common_by_their_index_with_the_values_of_the_first():
    first, second = Msrs.of({Msr.EFER: 1, Msr.STAR: 2, Msr.TSC: 3}), Msrs.of({Msr.TSC: 9, Msr.EFER: 8, Msr.PAT: 7})
    assert common_state(first, second) == Msrs.of({Msr.EFER: 1, Msr.TSC: 3})


def test_a_state_without_a_rule_is_common_only_where_it_is_the_same():
    assert common_state(Clock(5), Clock(5)) == Clock(5)
    assert common_state(Clock(5), Clock(6)) is None
