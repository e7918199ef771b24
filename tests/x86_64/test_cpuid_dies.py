"""Packages of several dies, as CPUID tells of them; the judges are hwloc and the Debian tool `cpuid`."""

import pytest
from cpuid_hosts import AMD, HOSTS, INTEL, OLDER, ends_at
from cpuid_judges import cpuid_tool, hwloc, values

from anyvisor.config import Topology
from anyvisor.errors import ConfigError
from anyvisor.x86_64.cpuid_policy import guest_cpuid
from anyvisor.x86_64.topology import apic_id

SHAPES = [(1, 2, 2, 1), (2, 2, 2, 2), (1, 4, 2, 2), (2, 3, 1, 1), (1, 2, 3, 2), (3, 2, 5, 1)]
ZEN_4 = AMD.replace(AMD[0x8000_0000].replace(eax=0x8000_0026))
TELLING = {"AMD": AMD, "AMD with 0x80000026": ZEN_4, "Intel": INTEL, "Hygon": HOSTS["Hygon"]}
INTELS = {"Intel": INTEL, "Intel without 0x1F": OLDER["Intel without 0x1F"], "Intel up to 0xA": ends_at(INTEL, 0xA)}
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda each: "x".join(map(str, each)))


def shaped(shape):
    return Topology(**dict(zip(("sockets", "dies", "cores", "threads"), shape, strict=True)))


def guests(host, shape):
    topology = shaped(shape)
    return [guest_cpuid(host, topology, vcpu, tsc_deadline=True) for vcpu in range(topology.vcpus)]


def numbers(lines, words):
    return [int(each, 0) for each in values(lines, words)]


def bits(count):
    return (count - 1).bit_length()


@shapes
@pytest.mark.parametrize("name", INTELS)
def test_hwloc_sees_packages_dies_and_cores(name, shape, tmp_path):
    _, dies, cores, threads = shape
    seen = hwloc(guests(INTELS[name], shape), tmp_path)
    cpus = sorted(seen)
    assert [seen[cpu].package for cpu in cpus] == [cpu // (dies * cores * threads) for cpu in cpus]
    assert [seen[cpu].die for cpu in cpus] == [cpu // (cores * threads) % dies for cpu in cpus]
    assert len({(each.package, each.die, each.core) for each in seen.values()}) == len(cpus) // threads


@shapes
@pytest.mark.parametrize("name", TELLING)
def test_hwloc_sees_the_last_cache_shared_by_a_die_and_the_others_by_a_core(name, shape, tmp_path):
    _, dies, cores, threads = shape
    tables = guests(TELLING[name], shape)
    for cpu, place in hwloc(tables, tmp_path).items():
        core = frozenset(range(cpu - cpu % threads, cpu - cpu % threads + threads))
        first = cpu - cpu % (cores * threads)
        die = frozenset(range(first, first + cores * threads))
        assert place.sharing == {"L1Cache": core, "L1iCache": core, "L2Cache": core, "L3Cache": die}
        assert place.package == cpu // (dies * cores * threads)


@shapes
@pytest.mark.parametrize("host", [AMD, ZEN_4], ids=["AMD", "AMD with 0x80000026"])
def test_the_cpuid_tool_reads_amd_s_nodes(host, shape):
    _, dies, cores, threads = shape
    for cpu, lines in enumerate(cpuid_tool(guests(host, shape))):
        assert numbers(lines, "node ID") == [cpu // (cores * threads)]
        assert numbers(lines, "nodes per processor") == [dies]
        assert numbers(lines, "core ID") == [cpu // threads % (dies * cores)]
        assert numbers(lines, "threads per core") == [threads]
        assert set(numbers(lines, "extended APIC ID")) == {apic_id(shaped(shape), cpu)}


@shapes
def test_the_cpuid_tool_reads_the_levels_of_leaf_0x80000026(shape):
    _, dies, cores, threads = shape
    die = bits(threads) + bits(cores)
    for lines in cpuid_tool(guests(ZEN_4, shape)):
        start = lines.index("AMD Extended CPU Topology (0x80000026):")
        found = lines[start:]
        assert values(found, "level type") == ["core", "complex", "die", "socket", "invalid"]
        assert numbers(found, "bit width of level") == [bits(threads), die, die, die + bits(dies), 0]
        counts = [threads, cores * threads, cores * threads, dies * cores * threads, 0]
        assert numbers(found, "number of logical processors at level") == counts


@shapes
@pytest.mark.parametrize("name", INTELS)
def test_the_cpuid_tool_reads_the_levels_of_leaf_0x1f(name, shape):
    """Leaf 0xB knows no dies: it counts a package's cores whatever die they are on."""
    _, dies, cores, threads = shape
    die, package = bits(threads) + bits(cores), bits(threads) + bits(cores) + bits(dies)
    for cpu, lines in enumerate(cpuid_tool(guests(INTELS[name], shape))):
        assert values(lines, "level type") == ["thread", "core", "invalid", "thread", "core", "die", "invalid"]
        assert numbers(lines, "bit width of level") == [bits(threads), package, 0, bits(threads), die, package, 0]
        counts = numbers(lines, "number of logical processors at level")
        all_of = dies * cores * threads
        assert counts == [threads, all_of, 0, threads, cores * threads, all_of, 0]
        assert numbers(lines, "x2APIC ID of logical processor") == [apic_id(shaped(shape), cpu)]


def test_dies_of_an_amd_processor_that_cannot_tell_them_are_refused():
    older = OLDER["AMD without TopologyExtensions"]
    with pytest.raises(ConfigError, match=r"2 dies .*TopologyExtensions .*one die to a package"):
        guest_cpuid(older, Topology(dies=2), 0, tsc_deadline=True)
    assert guest_cpuid(older, Topology(cores=2), 0, tsc_deadline=True)


def test_more_than_eight_bits_of_an_id_are_told_by_leaf_0xb_on_any_processor():
    wide = Topology(sockets=150, cores=2)
    for host in (HOSTS | OLDER).values():
        cpuid = guest_cpuid(host, wide, 299, tsc_deadline=True)
        assert cpuid.max_leaf >= 0xB
        assert [each.registers for each in cpuid.subleaves(0xB)] == [
            (0, 1, 0x100, 299), (1, 2, 0x201, 299), (0, 0, 2, 299)
        ]  # fmt: skip
        assert cpuid[1].ebx >> 24 == 299 % 256
        assert cpuid.apic_id == 299


def test_counts_that_do_not_fit_their_fields_hold_the_highest_value():
    topology = Topology(dies=9, cores=512)
    amd, intel = (guest_cpuid(host, topology, topology.vcpus - 1, tsc_deadline=True) for host in (AMD, INTEL))
    assert (amd[1].ebx >> 16 & 255, intel[1].ebx >> 16 & 255) == (255, 255)
    assert amd[0x8000_0008].ecx & 0xF0FF == 0xD0FF
    assert amd[0x8000_001E].registers == (0x11FF, 0xFF, 0x708, 0)
    assert intel[4, 3].eax >> 14 == 63 << 12 | 511
    assert [each.ebx for each in intel.subleaves(0x1F)] == [1, 512, 4608, 0]
    alone = guest_cpuid(INTEL, Topology(cores=4096, threads=2), 0, tsc_deadline=True)
    assert alone[4, 3].eax >> 14 & 0xFFF == 0xFFF
