"""A difference as a value and as text: it prints part by part, and what is printed can be asked for."""

import json

import attrs

from anyvisor.difference.change import PARTS, PlanChange, joined
from anyvisor.difference.plan import PlanDiff
from anyvisor.plan import Step
from anyvisor.states import Change
from anyvisor.x86_64.state import SegmentRegister, Sregs
from planned import vcpus


def difference():
    before = vcpus(
        [Change(Sregs, ds=SegmentRegister(limit=9), es=SegmentRegister(limit=9), fs=SegmentRegister(limit=9))]
    )
    after = vcpus(
        [Change(Sregs, ds=SegmentRegister(limit=8), es=SegmentRegister(limit=8), fs=SegmentRegister(limit=7))]
    )
    after = attrs.evolve(after, steps=(Step("h", "mine"),))
    return before.diff(after)


def test_it_prints_part_by_part_and_joins_what_is_alike():
    assert str(difference()).splitlines() == [
        "Steps",
        "  h: taken, provided by mine",
        "vCPUs",
        "  vCPU 0 Sregs.ds|es.limit 0x9 -> 0x8",
        "  vCPU 0 Sregs.fs.limit 0x9 -> 0x7",
    ]


def test_every_line_that_is_printed_can_be_asked_for_and_every_change_by_itself():
    found = difference()
    assert "vCPU 0 Sregs.ds|es.limit 0x9 -> 0x8" in found
    assert "vCPU 0 Sregs.es.limit 0x9 -> 0x8" in found
    assert all(change in found for change in found)
    assert "vCPU 0 Sregs.es.limit 0x9 -> 0x7" not in found


def test_changes_can_be_had_by_part_and_subject():
    found = difference()
    assert [change.subject for change in found.of("Steps")] == ["h"]
    assert len(found.about("vCPU 0")) == 3
    assert {change.part for change in found} <= set(PARTS)


def test_it_goes_into_json():
    data = json.loads(json.dumps(difference().to_data()))
    assert data[1] == {
        "part": "vCPUs", "subject": "vCPU 0", "words": "Sregs.ds.limit", "before": "0x9", "after": "0x8", "details": [],
    }  # fmt: skip


def test_long_details_are_counted_and_long_lines_broken():
    details = tuple(f"line {number}" for number in range(20))
    features = [PlanChange("vCPUs", "every vCPU", f"Cpuid -FEATURE{number}") for number in range(20)]
    lines = str(PlanDiff((PlanChange("Memory", "a", "x", details=details), *features))).splitlines()
    assert lines[17:20] == ["    line 15", "    ... and 4 more", "vCPUs"]
    assert max(map(len, lines)) <= 120
    assert " ".join(" ".join(lines[20:]).split()) == "every vCPU Cpuid " + " ".join(f"-FEATURE{n}" for n in range(20))


def test_only_what_is_alike_is_joined():
    changes = [
        PlanChange("vCPUs", "vCPU 0", "Sregs.ds.limit", "1", "2"),
        PlanChange("vCPUs", "vCPU 1", "Sregs.es.limit", "1", "2"),
        PlanChange("vCPUs", "vCPU 0", "Sregs.es.base", "1", "2"),
        PlanChange("vCPUs", "vCPU 0", "Cpuid -AVX"),
        PlanChange("Memory", "vCPU 0", "Cpuid -FMA"),
        PlanChange("vCPUs", "vCPU 0", "Cpuid 0x1 EBX: 0x1 -> 0x2"),
    ]
    assert joined(changes) == changes
