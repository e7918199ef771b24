"""Any two plans: there is a difference exactly if they differ, and telling it never fails."""

import json
import string
from pathlib import Path

import attrs
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.memory import Region
from anyvisor.plan import Blob, DeviceSpec, FileSlice, Step, VcpuPlan
from anyvisor.states import Change
from anyvisor.x86_64.control import Cr0
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.state import DescriptorTable, MpState, Regs, SegmentRegister, Sregs
from planned import Strange, plan

names = st.text(string.ascii_lowercase, min_size=1, max_size=2)
numbers = st.integers(0, 3)
steps = st.builds(Step, names, names, st.tuples(names), st.booleans())
states = st.one_of(
    st.builds(Regs, rip=numbers),
    st.builds(MpState),
    st.builds(lambda limit: Change(Sregs, cs=SegmentRegister(limit=limit), cr0=Cr0(limit)), numbers),
    st.builds(lambda flags: Change(Lapic, id=flags), numbers),
    st.builds(Strange, thing=numbers),
)
in_files = st.builds(FileSlice, st.just(Path("/nowhere")), numbers, st.just(8))
contents = st.one_of(st.binary(min_size=1, max_size=8), in_files)


@st.composite
def any_plans(draw):
    blobs = [
        Blob(name, 0x1000 * slot, content, provided_by=provider)
        for slot, (name, content, provider) in enumerate(draw(st.lists(st.tuples(names, contents, names), max_size=3)))
    ]
    indices = range(draw(numbers))
    devices = enumerate(draw(st.lists(names, max_size=2)))
    return plan(
        *blobs,
        steps=tuple(draw(st.lists(steps, max_size=3))),
        vcpus=tuple(VcpuPlan(each, tuple(draw(st.lists(states, max_size=3)))) for each in indices),
        devices=tuple(
            DeviceSpec("d", each, (Region(0x10 * at, 4),), gsi=draw(numbers)) for at, each in enumerate(devices)
        ),
        deterministic=draw(st.booleans()),
    )


@given(any_plans(), any_plans())
def test_there_is_a_difference_exactly_if_plans_differ(first, second):
    assert bool(first.diff(second)) == (first != second)
    assert not first.diff(attrs.evolve(first))
    assert str(first.diff(second)) and json.dumps(first.diff(second).to_data())


@given(st.binary(max_size=4096), st.integers(0, 0xFFFF), st.integers(0, 0x10000))
def test_no_memory_and_no_registers_make_it_fail(content, limit, address):
    """Whatever lies where the registers lead: a GDT, page tables, a zero page of noise."""
    sregs = Change(Sregs, gdt=DescriptorTable(address, limit), cr0=Cr0(pe=True, pg=True), cr3=address)
    states = (VcpuPlan(0, (Regs(rsi=address), sregs)),)
    first = plan(Blob("noise", 0x400, content or b"\0", 8192), vcpus=states)
    second = plan(Blob("noise", 0x400, (content or b"\0")[:-1] + b"\xa5", 8192), vcpus=states)
    assert bool(first.diff(second)) == (first != second)
