"""The reference page of the CPU models is complete, and has nothing that there is not."""

import re
from pathlib import Path

import pytest

from anyvisor.x86_64.cpu_models import cpu_model, model_names
from anyvisor.x86_64.cpu_models.read import CACHE_KEYS, HYPERVISOR_KEYS, KEYS, LEAF_KEYS, MSR_KEYS
from anyvisor.x86_64.cpuid_policy import CR4_MIRRORS, NO_PMU, NO_POWER_CONTROL
from anyvisor.x86_64.features import Feature

PAGE = (Path(__file__).parents[3] / "docs/reference/cpu-models.md").read_text("utf-8")


def part(heading):
    return re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


def first_column(text):
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_every_model_is_listed_with_its_description():
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", part("Models"), re.MULTILINE)
    assert rows == [(name, cpu_model(name).description) for name in model_names()]


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("Templates", KEYS),
        ("`[hypervisor]`", HYPERVISOR_KEYS),
        ("`[[cache]]`", CACHE_KEYS),
        ("`[[leaf]]`", LEAF_KEYS),
        ("`[[msr]]`", MSR_KEYS),
    ],
)
def test_every_key_is_listed_and_no_other(heading, keys):
    assert first_column(part(heading)) == list(keys)


def test_every_feature_is_listed_where_it_stands():
    rows = re.findall(r"^\| (0x\w+)(?:/(\d))? (E[A-D]X) \| (.*) \|$", part("Features"), re.MULTILINE)
    listed = [
        (name, int(leaf, 16), int(subleaf or 0), register.lower())
        for leaf, subleaf, register, names in rows
        for name in re.findall(r"`(\w+)`", names)
    ]
    assert listed == [(each.name.lower(), each.leaf, each.subleaf, each.register) for each in Feature]


def test_what_every_guest_gets_and_what_none_gets_is_said():
    text = " ".join(part("Models").split())
    always, never = text.partition("What every guest gets")[2].split("What none gets:")
    assert {each.name.lower() for each in CR4_MIRRORS} <= set(re.findall(r"`(\w+)`", always))
    names = re.findall(r"`(\w+)`", never.partition(".")[0])
    assert sorted(names) == sorted(each.name.lower() for each in (*NO_PMU, *NO_POWER_CONTROL))
