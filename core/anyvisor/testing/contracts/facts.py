"""`Hypervisor.facts`: a value that steps, tests and users can rely on."""

from __future__ import annotations

import importlib
from typing import Any

from anyvisor.architectures import ARCHITECTURES
from anyvisor.codec import class_named, name_of
from anyvisor.facts import Capability, HostFacts
from anyvisor.hypervisor import Hypervisor
from anyvisor.states import State
from anyvisor.testing.contracts.contract import Contract

REST_ON = {
    Capability.PIT: Capability.IRQCHIP,
    Capability.IRQFD: Capability.IRQCHIP,
    Capability.TSC_DEADLINE: Capability.IRQCHIP,
    Capability.FULL_SYSTEM: Capability.KICK,
}
"""What each of these cannot be without: a timer or an eventfd raises a line of the controllers, say."""
MOST_ADDRESS_BITS = 64


class FactsContract(Contract):
    """What a backend says of itself."""

    def test_the_facts_are_the_same_each_time(self, hypervisor: Hypervisor) -> None:
        """`facts` is a `HostFacts`, asked once: two looks at it are equal, and it names its backend."""
        facts = hypervisor.facts
        assert isinstance(facts, HostFacts)
        assert facts == hypervisor.facts
        assert facts.backend.isprintable() and facts.backend.strip(), "facts.backend: the backend's name is missing"

    def test_the_facts_can_be_written_down_and_read_again(self, hypervisor: Hypervisor) -> None:
        """`HostFacts.from_json(facts.to_json())` is equal to the facts, so that they can go to another machine."""
        assert HostFacts.from_json(hypervisor.facts.to_json()) == hypervisor.facts

    def test_the_architecture_is_one_that_there_is(self, hypervisor: Hypervisor) -> None:
        """`facts.architecture` is one that anyvisor has boot steps for."""
        assert hypervisor.facts.architecture in ARCHITECTURES

    def test_every_state_is_a_type_of_the_architecture(self, hypervisor: Hypervisor) -> None:
        """`facts.states` are portable names of state types, of this architecture, each once."""
        facts = hypervisor.facts
        assert len(set(facts.states)) == len(facts.states), "facts.states: a name is there twice"
        for name in facts.states:
            assert issubclass(class_named(name), State)
            assert name.startswith(f"{facts.architecture}."), "facts.states: a state of another architecture"

    def test_states_are_named_in_the_order_in_which_they_are_restored(self, hypervisor: Hypervisor) -> None:
        """`facts.states` has the states of a vCPU in the architecture's order: who restores one goes by it."""
        order = [name_of(kind) for kind in _part(hypervisor.facts, "state").VCPU_STATES]
        named = [name for name in hypervisor.facts.states if name in order]
        assert named == sorted(named, key=order.index)

    def test_the_modes_are_the_architectures(self, hypervisor: Hypervisor) -> None:
        """`facts.modes` are processor modes in the architecture's words, each once."""
        modes = hypervisor.facts.modes
        assert set(modes) <= set(_part(hypervisor.facts, "modes").MODES)
        assert len(set(modes)) == len(modes), "facts.modes: a mode is there twice"

    def test_no_capability_lacks_what_it_rests_on(self, hypervisor: Hypervisor) -> None:
        """A capability that cannot be without another does not come without it: PIT not without IRQCHIP."""
        facts = hypervisor.facts
        assert all(isinstance(each, Capability) for each in facts.capabilities)
        lacking = {one.value: other.value for one, other in REST_ON.items() if facts.has(one) and not facts.has(other)}
        assert not lacking, "facts.capabilities: these come without what they rest on"

    def test_what_is_supported_is_a_state_of_each_type_once(self, hypervisor: Hypervisor) -> None:
        """`facts.supported` holds at most one state of a type, and only types that can be put."""
        facts = hypervisor.facts
        names = [name_of(type(each)) for each in facts.supported]
        assert len(set(names)) == len(names), "facts.supported: two states of one type"
        assert set(names) <= set(facts.states), "facts.supported: a state that facts.states does not name"

    def test_the_limits_are_such_that_a_machine_fits(self, hypervisor: Hypervisor) -> None:
        """One vCPU and one memory slot at least; no more vCPUs recommended than possible; a sane address width."""
        facts = hypervisor.facts
        assert 1 <= facts.recommended_vcpus <= facts.max_vcpus
        assert facts.max_memory_slots >= 1
        assert 16 <= facts.physical_address_bits <= MOST_ADDRESS_BITS
        assert facts.tsc_khz >= 0
        assert all(isinstance(note, str) and note for note in facts.notes)


def _part(facts: HostFacts, name: str) -> Any:
    return importlib.import_module(f"anyvisor.{facts.architecture}.{name}")
