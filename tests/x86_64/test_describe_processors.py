"""Processors in words: model and caches, topology as CPUID tells it, and what vCPUs have differently."""

import pytest
from cpuid_hosts import HOSTS

from anyvisor import Topology, generic_facts
from anyvisor.memory import TIB
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.cpuid_policy import guest_cpuid
from anyvisor.x86_64.describe import describe
from anyvisor.x86_64.describe_processors import caches, describe_model, describe_topology
from seen_plans import made


def tables(host, **topology):
    wanted = Topology(**topology)
    return [guest_cpuid(host, wanted, vcpu, tsc_deadline=False) for vcpu in range(wanted.vcpus)]


@pytest.mark.parametrize(
    ("host", "shape", "first"),
    [
        ("Intel", {}, "1 package x 1 die x 1 core x 1 thread"),
        ("Intel", {"sockets": 2, "cores": 4, "threads": 2}, "2 packages x 1 die x 4 cores x 2 threads"),
        ("Intel", {"sockets": 2, "dies": 2, "cores": 3}, "2 packages x 2 dies x 3 cores x 1 thread"),
        ("AMD", {"sockets": 2, "cores": 4, "threads": 2}, "2 packages x 4 cores x 2 threads"),
    ],
)
def test_the_topology_that_was_configured_is_read_from_cpuid(host, shape, first):
    found = tables(HOSTS[host], **shape)
    text, value = describe_topology(found)
    wanted = first.replace(" x 1 die", "") if "dies" not in shape else first
    assert text.splitlines()[0].startswith(f"{wanted}, as leaf 0x")
    counts = Topology(**shape)
    assert (value.counts["package"], value.counts["core"], value.counts["thread"]) == (
        counts.sockets, counts.cores, counts.threads,
    )  # fmt: skip
    assert value.counts.get("die", 1) == counts.dies
    assert sorted(sum(value.packages.values(), ())) == sorted(each.apic_id for each in found)


def test_ids_that_are_left_out_are_not_claimed():
    text, value = describe_topology(tables(HOSTS["Intel"], sockets=2, cores=3))
    assert text.splitlines()[1:] == ["package 0: APIC ids 0-2", "package 1: APIC ids 4-6"]
    assert value.packages == {0: (0, 1, 2), 1: (4, 5, 6)}


def test_a_processor_without_topology_leaves_is_told_by_its_ids():
    bare = HOSTS["Intel"].drop(0xB, 0x1F)
    assert describe_topology([bare])[0] == "APIC ids 27; no leaf of CPUID tells more"


def test_caches_are_told_with_size_ways_and_who_shares_them():
    """Sizes of the EPYC that the file is from, as its data sheet has them: 32K, 32K, 1M a core, 32M a complex."""
    (first, *_) = tables(HOSTS["AMD"], cores=4, threads=2)
    assert list(caches(first)) == [
        "cache: L1 data, 32K, 8 ways, shared by 2 APIC ids",
        "cache: L1 instruction, 32K, 8 ways, shared by 2 APIC ids",
        "cache: L2 unified, 1M, 8 ways, shared by 2 APIC ids",
        "cache: L3 unified, 32M, 16 ways, shared by 8 APIC ids",
    ]


def test_a_model_is_told_in_lines_that_fit():
    text = describe_model(HOSTS["AMD"])
    assert text.startswith("AuthenticAMD, family 25, ")
    assert max(map(len, text.splitlines())) <= 110
    words = " ".join(line.strip() for line in text.splitlines())
    for feature in HOSTS["AMD"].features:
        assert f"{feature.name}," in words or words.endswith(feature.name)


def test_a_thousand_vcpus_are_described_in_a_few_lines_and_soon(tmp_path):
    # A search per vCPU would take minutes, and the test has one.
    plan = made(tmp_path, vcpus=1024, memory=TIB, overcommit=True, topology=Topology(sockets=2, cores=256, threads=2))
    found = {each.title: each for each in describe(plan, generic_facts())}
    lines = sum(len(each.short.splitlines()) for each in found.values())
    assert lines < 350
    assert "processors 255-1023: x2APIC ids 255-1023, enabled" in found["ACPI tables"].short
    assert "Device C000-C3FF: _HID ACPI0007, _UID 0-1023" in found["ACPI tables"].short
    assert "package 1: APIC ids 512-1023" in found["Topology"].text
    assert "vCPU 1023, against vCPU 0:" in found["CPUID, as against the host's"].text
    assert "vCPU 1-1023:\n  waits" in found["Registers"].text


def test_a_plan_without_vcpus_is_described_too():
    from anyvisor.plan import BootPlan

    found = {each.title: each.text for each in describe(BootPlan("x86_64", ()), generic_facts())}
    assert (found["Processor"], found["Topology"]) == ("none", "none")
    assert found["CPUID, as against the host's"] == "none"
    assert not [text for text in found.values() if "cannot be read" in text]


def test_a_vcpu_without_a_table_of_its_own_is_said_to_have_none(tmp_path):
    import attrs

    plan = made(tmp_path, vcpus=2)
    bare = attrs.evolve(plan.vcpus[1], states=tuple(s for s in plan.vcpus[1].states if not isinstance(s, Cpuid)))
    broken = attrs.evolve(plan, vcpus=(plan.vcpus[0], bare))
    found = {each.title: each.text for each in describe(broken, generic_facts())}
    assert found["Topology"] == "cannot be read: vCPU 1 has no CPUID table of its own"
