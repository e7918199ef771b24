import json

import attrs
import pytest

from anyvisor.errors import PlanError, Unsupported
from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.msrs import Msrs


def test_facts_survive_json():
    assert HostFacts.from_json(FACTS.to_json()) == FACTS


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"backend": "x"}'])
def test_text_that_is_no_facts_is_refused(text):
    with pytest.raises(PlanError):
        HostFacts.from_json(text)


def test_what_a_host_supports_is_asked_by_type():
    assert FACTS.supported_state(Cpuid).vendor == "GenuineIntel"
    with pytest.raises(Unsupported, match="says nothing about the Msrs"):
        FACTS.supported_state(Msrs)


def test_capabilities_are_asked_by_name():
    assert FACTS.has(Capability.IRQCHIP)
    assert not FACTS.has(Capability.DIRTY_LOG)


def test_facts_of_before_there_were_modes_can_still_be_read():
    data = json.loads(FACTS.to_json())
    del data["modes"]
    assert HostFacts.from_json(json.dumps(data)) == attrs.evolve(FACTS, modes=())
