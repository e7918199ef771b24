"""Whatever becomes of a plan, checking it gives findings and no exception, and in a short time."""

import time

import pytest
from boot_plans import KERNELS, plan_of, regs, sregs
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvisor.finding import Finding
from anyvisor.memory import Region
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.x86_64.boot_checks import check_plan
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import DescriptorTable, SegmentRegister

MOST_SECONDS = 10
words = st.one_of(
    st.sampled_from([0, 1, 0x500, 0x6000, 0x7000, 0x9000, 0x20000, 0xE0000, 0xFFFFF, 1 << 31, (1 << 32) - 1, 1 << 63]),
    st.integers(0, (1 << 64) - 1),
)
segment = st.builds(
    SegmentRegister,
    base=words, limit=words, selector=st.integers(0, 0xFFFF), type=st.integers(0, 15), s=st.booleans(),
    dpl=st.integers(0, 3), present=st.booleans(), l=st.booleans(), db=st.booleans(), g=st.booleans(),
    unusable=st.booleans(),
)  # fmt: skip
register_fields = st.dictionaries(st.sampled_from(["rip", "rsi", "rbx", "rax", "rsp", "rbp"]), words)
system_fields = st.fixed_dictionaries(
    {},
    optional={
        "cr0": words.map(Cr0), "cr3": words, "cr4": words.map(Cr4), "efer": words.map(Efer), "cs": segment,
        "ds": segment, "ss": segment, "tr": segment, "gdt": st.builds(DescriptorTable, words, words),
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    return {name: plan_of(name, folder) for name in KERNELS}


@st.composite
def damage(draw, plan):
    """Some bytes of some pieces changed: where pointers, lengths and counts stand, mostly near the start."""
    blobs = list(plan.blobs)
    able = [index for index, each in enumerate(blobs) if isinstance(each.content, bytes) and each.content]
    for index in draw(st.lists(st.sampled_from(able), max_size=6)):
        content = bytearray(blobs[index].content)
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(content) - 1))
            new = draw(st.binary(min_size=1, max_size=8))
            content[at : at + len(new)] = new[: len(content) - at]
        blobs[index] = type(blobs[index])(blobs[index].name, blobs[index].guest_address, bytes(content))
    return BootPlan(plan.architecture, plan.ram, plan.reserved, tuple(blobs), vcpus=plan.vcpus, devices=plan.devices)


@settings(max_examples=120)
@given(st.data(), st.sampled_from(list(KERNELS)), register_fields, system_fields)
def test_any_damage_gives_findings(plans, data, name, general, system):
    plan = data.draw(damage(plans[name]))
    plan = sregs(**system)(regs(**general)(plan))
    began = time.monotonic()
    found = check_plan(plan)
    assert time.monotonic() - began < MOST_SECONDS
    assert all(isinstance(each, Finding) and str(each) for each in found)


def test_a_loop_of_page_tables_ends(plans):
    plan = plans["raw"]
    root = next(each for each in plan.blobs if each.name == "page tables")
    looping = b"".join((0x9003).to_bytes(8, "little") for _ in range(512)) + root.content[4096:]
    changed = tuple(type(each)(each.name, each.guest_address, looping) if each is root else each for each in plan.blobs)
    found = check_plan(BootPlan(plan.architecture, plan.ram, blobs=changed, vcpus=plan.vcpus))
    assert "stack-in-ram" in {each.check for each in found}, "what is mapped now are the tables themselves"


def test_plans_that_say_nothing_are_passed():
    ram = (Region(0, 1 << 20, "RAM"),)
    assert check_plan(BootPlan("x86_64", ram)) == []
    assert check_plan(BootPlan("x86_64", ram, vcpus=(VcpuPlan(0, ()), VcpuPlan(1, ())))) == []


def test_a_processor_that_starts_at_its_reset_vector_is_found_to_have_no_bios():
    plan = BootPlan("x86_64", (Region(0, 1 << 20, "RAM"),), vcpus=(VcpuPlan(0, reset_states()),))
    (found,) = check_plan(plan)
    assert (found.check, found.found) == ("entry-in-ram", "0xfffffff0")
