"""APIC ids, and how CPUID tells a guest to take them apart."""

import pytest
from cpuid_hosts import HOSTS, OLDER
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anyvisor.config import Topology
from anyvisor.errors import ConfigError
from anyvisor.x86_64.cpuid_policy import guest_cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.topology import Place, apic_id, apic_ids


def order(count):
    return max(count - 1, 0).bit_length()


def counts(most):
    return st.integers(1, most)


topologies = (
    st.builds(Topology, counts(8), counts(8), counts(4))
    | st.builds(Topology, sockets=counts(127), threads=counts(2))
    | st.builds(Topology, cores=counts(127), threads=counts(2))
    | st.builds(Topology, cores=counts(254))
).filter(lambda each: each.vcpus <= 254)


def last_id(topology):
    """The highest APIC id there would be, worked out by multiplication."""
    core_ids, thread_ids = (1 << order(each) for each in (topology.cores, topology.threads))
    return ((topology.sockets - 1) * core_ids + topology.cores - 1) * thread_ids + topology.threads - 1


@settings(deadline=None)
@given(topologies)
def test_apic_ids_are_unique_and_fit_eight_bits_or_the_topology_is_refused(topology):
    if last_id(topology) > 254:
        with pytest.raises(ConfigError, match="powers of two"):
            apic_ids(topology)
        return
    ids = apic_ids(topology)
    assert len(set(ids)) == topology.vcpus
    assert list(ids) == sorted(ids)
    assert ids[-1] == last_id(topology)


@settings(deadline=None)
@given(topologies, st.sampled_from(list(HOSTS | OLDER)), st.data())
def test_all_leaves_agree_on_the_apic_id_and_how_to_take_it_apart(topology, name, data):
    assume(last_id(topology) <= 254)
    vcpu = data.draw(st.integers(0, topology.vcpus - 1))
    wanted = apic_id(topology, vcpu)
    cpuid = guest_cpuid((HOSTS | OLDER)[name], topology, vcpu, tsc_deadline=False)
    said = [cpuid[1].ebx >> 24, cpuid.apic_id]
    said += [each.edx for leaf in (0xB, 0x1F) for each in cpuid.subleaves(leaf)]
    said += [each.eax for each in cpuid.subleaves(0x8000_001E)]
    assert set(said) == {wanted}
    thread_bits, package_bits = shifts(cpuid)
    assert wanted >> package_bits == vcpu // (topology.cores * topology.threads)
    six_bits_are_enough = name != "Intel without 0xB" or topology.cores <= 64
    if name != "AMD without TopologyExtensions" and six_bits_are_enough:
        assert wanted & (1 << thread_bits) - 1 == vcpu % topology.threads
        assert (wanted & (1 << package_bits) - 1) >> thread_bits == vcpu // topology.threads % topology.cores


def shifts(cpuid):
    """The bits of threads, and of a package's processors, in an APIC id, looked for in Linux's order."""
    for leaf in (0x1F, 0xB):
        if cpuid.max_leaf >= leaf and cpuid[leaf, 0].ebx:
            return cpuid[leaf, 0].eax & 31, cpuid[leaf, 1].eax & 31
    if cpuid.vendor == "GenuineIntel":
        cores = order((cpuid[4, 0].eax >> 26) + 1)
        package = order(cpuid[1].ebx >> 16 & 255) if cpuid.has(Feature.HTT) else cores
        return package - cores, package
    package = (cpuid[0x8000_0008].ecx >> 12 & 15) or order((cpuid[0x8000_0008].ecx & 255) + 1)
    return order((cpuid[0x8000_001E].ebx >> 8 & 255) + 1), package


def test_ids_leave_gaps_where_counts_are_no_powers_of_two():
    assert apic_ids(Topology(sockets=2, cores=3)) == (0, 1, 2, 4, 5, 6)
    assert apic_ids(Topology(sockets=2, cores=2, threads=3)) == (0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14)
    assert apic_ids(Topology(cores=254)) == tuple(range(254))
    assert Place.of(Topology(2, 3, 2), 9).apic_id == 0b1_01_1
    with pytest.raises(ConfigError, match="powers of two"):
        apic_ids(Topology(sockets=50, cores=5))
    with pytest.raises(ConfigError, match="vCPU 4"):
        apic_id(Topology(cores=4), 4)
