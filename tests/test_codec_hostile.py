"""Whatever stands in a plan's JSON: a plan comes of it, or a PlanError that names the place."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvisor.codec import from_data
from anyvisor.errors import PlanError
from anyvisor.facts import HostFacts
from anyvisor.plan import BootPlan
from codec_examples import full_facts, full_plan, over_json, same


def spoilt(**changes):
    """The plan's data, with one thing put where a path of keys joined by dots says."""
    data = json.loads(full_plan().to_json())
    for path, value in changes.items():
        at = data
        *way, last = [int(each) if each.isdigit() else each for each in path.split(".")]
        for each in way:
            at = at[each]
        at[last] = value
    return data


MISTAKES = {
    "ram": ("x", "'x' is not a list at ram"),
    "ram.0": ([], r"\[\] is not an object at ram\[0\]"),
    "ram.0.start": ("0", r"'0' is not a whole number at ram\[0\].start"),
    "ram.0.size_bytes": (True, r"True is not a whole number at ram\[0\].size_bytes"),
    "ram.0.name": (5, r"5 is not text at ram\[0\].name"),
    "ram.0.colour": ("red", r"unknown colour at ram\[0\]"),
    "architecture": (None, "None is not text at architecture"),
    "blobs.0.content": ("*", r"not base64.* at blobs\[0\].content"),
    "blobs.1.content": (7, r"7 is not bytes or FileSlice at blobs\[1\].content"),
    "blobs.1.content.path": (7, r"7 is not text at blobs\[1\].content.path"),
    "blobs.0.size_bytes": (1, r"gdt: 256 bytes of content in a piece of 1 bytes at blobs\[0\]"),
    "vcpus.0.states": ({}, r"\{\} is not a list at vcpus\[0\].states"),
    "vcpus.0.states.0": (None, r"None is not VcpuState or Change at vcpus\[0\].states\[0\]"),
    "vcpus.0.states.0.type": ("x86_64.Nonsense", r"no state type.*Nonsense.* at vcpus\[0\].states\[0\]"),
    "vcpus.0.states.1.type": ("x86_64.Pit", r"x86_64.Pit is not a VcpuState at vcpus\[0\].states\[1\]"),
    "vcpus.0.states.2.kind": ("x86_64.Pit", r"x86_64.Pit is not a VcpuState at vcpus\[0\].states\[2\]"),
    "vcpus.0.states.2.fields": ([], r"\[\] is not an object at vcpus\[0\].states\[2\]"),
    "vcpus.0.states.2.fields.cr0": ("1", r"cr0: '1' is not a whole number at vcpus\[0\].states\[2\]"),
    "vcpus.0.states.2.fields.cs.limit": (None, r"cs: None is not a whole number at limit at vcpus\[0\]"),
    "vcpus.0.states.2.fields.cr9": (1, r"Sregs has no field cr9.* at vcpus\[0\].states\[2\]"),
    "vcpus.0.states.2.more": (1, r".* is not a change of a kind and fields at vcpus\[0\].states\[2\]"),
    "vcpus.0.states.0.entries.0.eax": (1 << 32, r"CPUID leaf 0xb: eax=4.* at .*states\[0\].entries\[0\]"),
    "vcpus.0.states.1.entries.0.value": (-1, r"IA32_SYSENTER_CS: value=-1 .* at .*states\[1\].entries\[0\]"),
    "vcpus.1.states.0.activity": (9, r"9 is not a valid Activity at vcpus\[1\].states\[0\].activity"),
    "vm_states_before.1.channels": ([], r"0 items where there must be 3 at vm_states_before\[1\].channels"),
    "devices.0.gsi": ("four", r"'four' is not int or null at devices\[0\].gsi"),
    "devices.0.settings": ([], r"\[\] is not an object at devices\[0\].settings"),
    "devices.0.settings.a": (1.5, r"a: 1.5 is not str or int or bool at devices\[0\].settings"),
    "vcpus.0.index": (3, "vCPUs must be numbered"),
}  # fmt: skip


@pytest.mark.parametrize("path", MISTAKES)
def test_each_mistake_in_a_plan_is_named_with_its_path(path):
    value, message = MISTAKES[path]
    with pytest.raises(PlanError, match=f"^boot plan cannot be read: {message}"):
        BootPlan.from_json(json.dumps(spoilt(**{path: value})))


def test_all_mistakes_are_named_at_once():
    data = spoilt(**{"ram.0.start": "x", "devices.0.kind": 5})
    del data["vcpus"][0]["index"]
    with pytest.raises(
        PlanError,
        match=r"'x' is not .*ram\[0\].start; 'index' is missing at vcpus\[0\].index; 5 is not text at dev",
    ):
        BootPlan.from_json(json.dumps(data))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["change", "x86_64.Regs", "x86_64.Pit", "aarch64.Regs", "x86_64.os", "kick"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["type", "kind", "fields", "path", "x"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def places(data, path=()):
    yield path
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


PLAN_DATA = json.loads(full_plan().to_json())
FACTS_DATA = json.loads(full_facts().to_json())


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_hostile_plan_or_facts_gives_a_plan_error_or_a_value(data):
    kind, good = data.draw(st.sampled_from([(BootPlan, PLAN_DATA), (HostFacts, FACTS_DATA)]))
    found = copy.deepcopy(good)
    for path in data.draw(st.lists(st.sampled_from(list(places(good))), min_size=1, max_size=2)):
        found = put(found, path, data.draw(json_values))
    try:
        value = from_data(json.loads(json.dumps(found)), kind, "hostile")
    except PlanError as error:
        assert str(error).startswith("hostile cannot be read: ")  # noqa: PT017 - either outcome is right
    else:
        assert isinstance(value, kind)
        assert same(over_json(value, kind), value)


def put(data, path, value):
    """`data` with `value` at the path, where that place is still there."""
    if not path:
        return value
    if isinstance(data, dict) and path[0] in data:
        return {**data, path[0]: put(data[path[0]], path[1:], value)}
    if isinstance(data, list) and isinstance(path[0], int) and path[0] < len(data):
        return [*data[: path[0]], put(data[path[0]], path[1:], value), *data[path[0] + 1 :]]
    return data
