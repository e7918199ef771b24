import inspect
import json
import subprocess
import sys
import types
import typing

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyvisor.bits import Bits
from anyvisor.codec import class_named, name_of, named, to_data
from anyvisor.errors import PlanError
from anyvisor.facts import Capability, HostFacts
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.states import Change, State, VcpuState, VmState
from anyvisor.x86_64 import chips as x86_64_chips
from anyvisor.x86_64 import state as x86_64_state
from anyvisor.x86_64.control import Cr0
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.lapic import Lapic, LocalVector
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs
from codec_examples import full_facts, full_plan, over_json, same

STATES = sorted(
    (
        each
        for module in (x86_64_state, x86_64_chips)
        for _, each in inspect.getmembers(module, inspect.isclass)
        if issubclass(each, State) and attrs.has(each)
    ),
    key=lambda each: each.__name__,
)


def values(kind):
    """A strategy for values of a declared type, made from nothing but the declaration."""
    if kind is CpuidEntry:
        return st.builds(CpuidEntry, *[st.integers(0, 2**32 - 1)] * 6, st.booleans())
    if kind is Msrs:
        found = st.dictionaries(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), max_size=4)
        return found.map(Msrs.of)
    if isinstance(kind, type) and attrs.has(kind):
        attrs.resolve_types(kind)
        return st.builds(kind, **{each.name: values(each.type) for each in attrs.fields(kind)})
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return st.one_of(*map(values, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        item, *more = typing.get_args(kind)
        if more == [...]:
            return st.lists(values(item), max_size=3).map(tuple)
        return st.tuples(values(item), *map(values, more))
    if isinstance(kind, type) and issubclass(kind, Bits):
        return st.integers(0, 2**64 - 1).map(kind)
    plain = {
        int: st.integers(0, 2**64 - 1),
        bool: st.booleans(),
        bytes: st.binary(),
        types.NoneType: st.none(),
    }
    return plain[kind] if kind in plain else st.sampled_from(kind)


def test_every_state_of_x86_64_is_tried():
    assert len(STATES) == 14
    assert {*x86_64_state.VCPU_STATES} <= {*STATES}
    assert {Cpuid, Msrs, Lapic} <= {*STATES}


@pytest.mark.parametrize("kind", STATES, ids=lambda each: each.__name__)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_state_survives_json_under_its_base_and_under_its_own_name(kind, data):
    value = data.draw(values(kind))
    written = to_data(value)
    assert written["type"] == f"x86_64.{kind.__name__}"
    assert same(over_json(value, kind), value)
    assert same(over_json(value, VcpuState if issubclass(kind, VcpuState) else VmState), value)
    assert same(over_json(value, State), value)


@pytest.mark.parametrize(
    "kind", [each for each in STATES if issubclass(each, VcpuState)], ids=lambda each: each.__name__
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_change_survives_json_with_its_fields_own_types(kind, data):
    state = data.draw(values(kind))
    names = data.draw(st.sets(st.sampled_from([each.name for each in attrs.fields(kind)])))
    change = Change(kind, **{name: getattr(state, name) for name in sorted(names)})
    found = over_json(VcpuPlan(0, (state, change)), VcpuPlan)
    assert same(found.states, (state, change))


def test_a_change_says_what_it_is():
    change = Change(Sregs, cr0=Cr0(pe=True), cs=SegmentRegister(selector=0x10, present=True))
    written = to_data(VcpuPlan(0, (change,)))["states"][0]
    assert written.keys() == {"type", "kind", "fields"}
    assert (written["type"], written["kind"]) == ("change", "x86_64.Sregs")
    assert written["fields"]["cr0"] == 1
    assert written["fields"]["cs"]["selector"] == 0x10


def test_a_plan_with_changes_survives_json():
    plan = full_plan()
    found = BootPlan.from_json(plan.to_json())
    assert same(found, plan)
    assert found.vcpus[0].state(Lapic).fields["lint0"].delivery_mode == 7
    assert type(found.vcpus[0].state(Lapic).fields["lint0"]) is LocalVector
    assert [type(each) for each in found.devices[0].settings.values()] == [str, int, bool]


def test_facts_survive_json_and_are_written_the_same_each_time():
    facts = full_facts()
    assert same(HostFacts.from_json(facts.to_json()), facts)
    assert json.loads(facts.to_json())["capabilities"] == sorted(each.value for each in Capability)


@pytest.mark.parametrize("name", ["aarch64.Nonsense", "x86_64", "", "os.path", "x86_64.state", "../x.Y", "no.Such"])
def test_a_name_that_nobody_defines_is_refused(name):
    with pytest.raises(PlanError, match="no state type is called"):
        class_named(name)


def test_a_name_belongs_to_one_class():
    assert name_of(Regs) == "x86_64.Regs" and class_named("x86_64.Regs") is Regs
    with pytest.raises(ValueError, match=r"x86_64\.Regs belongs to"):
        named("x86_64.Regs")(Sregs)

    @attrs.frozen
    class Nameless(VcpuState):
        pass

    with pytest.raises(PlanError, match="Nameless has no portable name"):
        to_data(VcpuPlan(0, (Nameless(),)))
    with pytest.raises(PlanError, match="VcpuState has no portable name"):
        to_data(VcpuPlan(0, (VcpuState(),)))


def test_a_stranger_s_state_is_read_and_written_by_its_name():
    @named("test.Lamp")
    @attrs.frozen
    class Lamp(VmState):
        lit: bool = False

    found = over_json(BootPlan("x86_64", (), vm_states_after=(Lamp(True),)), BootPlan)
    assert found.vm_states_after == (Lamp(True),)


def test_reading_a_plan_needs_no_state_type_imported_before():
    program = "import sys; from anyvisor.plan import BootPlan; BootPlan.from_json(sys.stdin.read()); print('read')"
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, input=full_plan().to_json(), text=True, timeout=60) == "read\n"


def test_core_starts_without_the_converter():
    program = "import anyvisor.plan, anyvisor.x86_64.state, sys; print('cattrs' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, timeout=60) == "False\n"


@pytest.mark.parametrize("kind", STATES, ids=lambda each: each.__name__)
def test_every_state_is_found_by_its_name_when_nothing_has_been_imported_yet(kind):
    program = f"from anyvisor.codec import class_named; print(class_named({name_of(kind)!r}).__module__)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout == f"{kind.__module__}\n"
