"""APIC ids, and how CPUID tells a guest to take them apart."""

import pytest
from cpuid_hosts import HOSTS, OLDER
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anyvisor.config import Topology
from anyvisor.errors import ConfigError
from anyvisor.x86_64.cpuid_policy import guest_cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.topology import Place, apic_id, apic_ids, last_apic_id, needs_x2apic

FOUR_GIGA = 1 << 32


def order(count):
    return max(count - 1, 0).bit_length()


def counts(most):
    return st.integers(1, most)


topologies = (
    st.builds(Topology, sockets=counts(8), dies=counts(4), cores=counts(8), threads=counts(4))
    | st.builds(Topology, sockets=counts(127), threads=counts(2))
    | st.builds(Topology, cores=counts(127), threads=counts(2))
    | st.builds(Topology, cores=counts(1024))
    | st.builds(Topology, sockets=counts(20), dies=counts(9), cores=counts(20), threads=counts(2))
).filter(lambda each: each.vcpus <= 4096)


def fields(topology, vcpu):
    """Thread, core, die and package, each as (number, how many there are)."""
    found = []
    for count in (topology.threads, topology.cores, topology.dies, topology.sockets):
        vcpu, number = divmod(vcpu, count)
        found.append((number, count))
    return found


def glued(topology, vcpu):
    """The APIC id, worked out by multiplication."""
    number = 0
    for value, count in reversed(fields(topology, vcpu)):
        number = number * (1 << order(count)) + value
    return number


@settings(deadline=None)
@given(topologies)
def test_apic_ids_are_unique_and_rise_with_the_vcpus(topology):
    ids = apic_ids(topology)
    assert list(ids) == [glued(topology, vcpu) for vcpu in range(topology.vcpus)]
    assert list(ids) == sorted(set(ids))
    assert last_apic_id(topology) == ids[-1]
    assert needs_x2apic(topology) == any(each > 254 for each in ids)


@settings(deadline=None)
@given(topologies, st.sampled_from(list(HOSTS | OLDER)), st.data())
def test_all_leaves_agree_on_the_apic_id_and_how_to_take_it_apart(topology, name, data):
    assume(topology.dies == 1 or name != "AMD without TopologyExtensions")
    vcpu = data.draw(st.integers(0, topology.vcpus - 1))
    wanted = apic_id(topology, vcpu)
    cpuid = guest_cpuid((HOSTS | OLDER)[name], topology, vcpu, tsc_deadline=False)
    assert cpuid[1].ebx >> 24 == wanted % 256
    said = [each.edx for leaf in (0xB, 0x1F) for each in cpuid.subleaves(leaf)]
    said += [each.eax for each in cpuid.subleaves(0x8000_001E)]
    assert set(said) <= {wanted}
    assert cpuid.apic_id == wanted
    tells_threads = name != "AMD without TopologyExtensions"
    if cpuid.max_leaf < 0xB and cpuid.vendor == "GenuineIntel":  # six bits must be enough for the cores
        tells_threads = topology.cores <= 64
    seen = taken_apart(cpuid, wanted)
    assert seen["package"] == vcpu // (topology.dies * topology.cores * topology.threads)
    (thread, _), (core, _), (die, _), _ = fields(topology, vcpu)
    if tells_threads:
        assert (seen["thread"], seen["core"]) == (thread, die << order(topology.cores) | core)
    if "die" in seen:
        assert (seen["die"], seen["core in die"]) == (die, core)
    assert ("die" in seen) == (topology.dies > 1 and cpuid.vendor == "GenuineIntel")
    if topology.dies > 1 and cpuid.vendor != "GenuineIntel":
        assert cpuid[0x8000_001E].ecx & 0xFF == vcpu // topology.threads // topology.cores % 256
        assert (cpuid[0x8000_001E].ecx >> 8) == min(topology.dies - 1, 7)


def taken_apart(cpuid, number):
    """The places that an APIC id names, looked for in Linux's order."""
    threads, dies, package = shifts(cpuid)
    seen = {"package": number >> package, "thread": number & (1 << threads) - 1}
    seen["core"] = (number & (1 << package) - 1) >> threads
    if dies is not None:
        seen["die"] = (number & (1 << package) - 1) >> dies
        seen["core in die"] = (number & (1 << dies) - 1) >> threads
    return seen


def shifts(cpuid):
    """The bits that tell threads, a die's processors (None: no dies) and a package's apart."""
    if cpuid.max_leaf >= 0x1F and cpuid[0x1F, 0].ebx:
        widths = {each.ecx >> 8: each.eax & 31 for each in cpuid.subleaves(0x1F)}
        assert [each.ecx & 0xFF for each in cpuid.subleaves(0x1F)] == list(range(len(widths)))
        return (widths[1], widths[2], widths[5]) if 5 in widths else (widths[1], None, widths[2])
    if cpuid.max_leaf >= 0xB and cpuid[0xB, 0].ebx:
        return cpuid[0xB, 0].eax & 31, None, cpuid[0xB, 1].eax & 31
    if cpuid.vendor == "GenuineIntel":
        cores = order((cpuid[4, 0].eax >> 26) + 1)
        package = order(cpuid[1].ebx >> 16 & 255) if cpuid.has(Feature.HTT) else cores
        return package - cores, None, package
    package = (cpuid[0x8000_0008].ecx >> 12 & 15) or order((cpuid[0x8000_0008].ecx & 255) + 1)
    return order((cpuid[0x8000_001E].ebx >> 8 & 255) + 1), None, package


def test_ids_leave_gaps_where_counts_are_no_powers_of_two():
    assert apic_ids(Topology(sockets=2, cores=3)) == (0, 1, 2, 4, 5, 6)
    assert apic_ids(Topology(sockets=2, cores=2, threads=3)) == (0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14)
    assert apic_ids(Topology(sockets=2, dies=3, cores=1, threads=2)) == (0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13)
    assert apic_ids(Topology(cores=254)) == tuple(range(254))
    assert Place.of(Topology(sockets=2, cores=3, threads=2), 9).apic_id == 0b1_01_1
    assert Place.of(Topology(sockets=2, dies=2, cores=3, threads=2), 21).apic_id == 0b1_1_01_1
    assert apic_ids(Topology(sockets=50, cores=5))[-1] == 49 * 8 + 4
    with pytest.raises(ConfigError, match="vCPU 4"):
        apic_id(Topology(cores=4), 4)


def test_an_id_has_32_bits_at_most_and_the_last_of_them_stands_for_all():
    assert apic_id(Topology(sockets=FOUR_GIGA), FOUR_GIGA - 2) == FOUR_GIGA - 2
    with pytest.raises(ConfigError, match="0xffffffff, which is not one of an APIC"):
        apic_id(Topology(sockets=FOUR_GIGA), FOUR_GIGA - 1)


def test_eight_bits_are_enough_up_to_254():
    assert not needs_x2apic(Topology(cores=255))
    assert needs_x2apic(Topology(cores=256))
    assert needs_x2apic(Topology(sockets=33, cores=5))
    assert not needs_x2apic(Topology(sockets=31, cores=5))
