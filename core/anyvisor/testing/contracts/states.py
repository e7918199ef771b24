"""`get` and `put`: what is put is what is got, nothing else moves, and what cannot be is refused."""

from __future__ import annotations

import pytest

from anyvisor.architectures import part
from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted
from anyvisor.hypervisor import Hypervisor
from anyvisor.launch import launch
from anyvisor.states import Change, State, VcpuState
from anyvisor.testing.bench import Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.kinds import examples, vcpu_kinds, vm_kinds
from anyvisor.testing.requirements import lacking, needs


class StatesContract(Contract):
    """Every state type that the facts name, with the interrupt controllers of the hypervisor where it has them."""

    def test_every_state_that_is_named_can_be_read(self, bench: MakeBench) -> None:
        """`get` gives a state of the type that it was asked for, for each type in `facts.states`."""
        made = _with_chips(bench)
        for kind in _kinds(made):
            assert type(_get(made, kind)) is kind

    def test_what_was_got_can_be_put_back(self, bench: MakeBench) -> None:
        """`put` of what `get` gave is taken, for each type, and changes neither it nor any other state."""
        made = _with_chips(bench)
        for kind in _kinds(made):
            before = _all(made)
            _put(made, _get(made, kind))
            assert _all(made) == before, f"putting back {kind.__name__} changed the state of the vCPU"

    def test_what_is_put_is_what_is_got(self, bench: MakeBench) -> None:
        """For each type: a state that is put, different from the one before, is what `get` then gives."""
        made = _with_chips(bench)
        known = examples(made.facts)
        for kind in _kinds(made):
            before = _get(made, kind)
            wanted = known.changed(before, made.facts)
            if wanted is None:
                continue
            _put(made, wanted)
            assert known.steady(_get(made, kind)) == known.steady(wanted)
            _put(made, before)
            assert known.steady(_get(made, kind)) == known.steady(before), "and it can be put back"

    @needs(vcpus=2)
    def test_what_is_put_to_one_vcpu_does_not_show_on_another(self, bench: MakeBench) -> None:
        """The states of a vCPU are its own: a put to one changes nothing of the other."""
        made = _with_chips(bench, vcpus=2)
        known = examples(made.facts)
        for kind in made.readable_kinds():
            before = known.steady(made.vcpus[1].get(kind))
            wanted = known.changed(made.vcpu.get(kind), made.facts)
            if wanted is not None:
                made.vcpu.put(wanted)
            assert known.steady(made.vcpus[1].get(kind)) == before

    def test_all_states_put_in_the_order_of_the_facts_stay_as_they_were_put(self, bench: MakeBench) -> None:
        """A snapshot is a loop: get all, and put all to a fresh vCPU in the facts' order. None undoes another."""
        first, second = _with_chips(bench), _with_chips(bench)
        known = examples(first.facts)
        for kind in _kinds(first):
            if (wanted := known.changed(_get(first, kind), first.facts)) is not None:
                _put(first, wanted)
        for kind in _kinds(first):
            _put(second, _get(first, kind))
        assert _all(second) == _all(first)

    def test_a_guest_that_has_halted_goes_on_behind_its_hlt_in_another_vm(self, bench: MakeBench) -> None:
        """States and memory that were got after `Halted` are those behind the HLT: a fresh VM goes on there."""
        old, new = bench(), bench()
        guest = old.guests_of("running").FIVE_HALTS
        old.enter(guest)
        assert old.run() == Halted()
        new.take_over(old)
        new.play(guest.does[2:])
        assert new.run() == Halted()
        assert (old.ports.values, new.ports.values) == ([1], [2]), "what the guest did before its first HLT, and behind"

    def test_a_state_that_cannot_be_is_refused_and_changes_nothing(self, bench: MakeBench) -> None:
        """`put` of a state that no processor can be in raises HypervisorError, and the one before is still there."""
        made = bench()
        for state in examples(made.facts).refused(made.vcpu, made.facts):
            before = made.vcpu.get(type(state))
            with pytest.raises(HypervisorError) as refused:
                made.vcpu.put(state)
            assert refused.value.operation, "HypervisorError.operation: the name of the call that was refused"
            assert made.vcpu.get(type(state)) == before
        made.enter(made.guests.HALT)
        assert made.run() == Halted()

    def test_a_change_in_a_plan_leaves_the_rest_as_the_hypervisor_made_it(self, hypervisor: Hypervisor) -> None:
        """`launch` reads the state of a fresh vCPU, changes some fields, and puts it back."""
        plan = part(hypervisor.facts.architecture, "selftest").plan()
        changes = [each for each in plan.vcpus[0].states if isinstance(each, Change)]
        if not changes:
            lacking(hypervisor.facts, "a self-test whose plan changes a state")
        with Bench(hypervisor) as fresh:
            wanted = [change.apply(fresh.vcpu.get(change.kind)) for change in changes]
        with launch(plan, hypervisor) as machine:
            assert [machine.vcpus[0].get(change.kind) for change in changes] == wanted


def _with_chips(bench: MakeBench, vcpus: int = 1) -> Bench:
    """A bench whose vCPUs have all states there are."""
    made = bench(vcpus=0)
    known = examples(made.facts)
    made = bench(vcpus=vcpus, states=known.before(made.facts))
    for vcpu in made.vcpus:
        known.prepare(vcpu, made.facts)
    return made


def _kinds(made: Bench) -> list[type[State]]:
    return [*vm_kinds(made.facts), *vcpu_kinds(made.facts)]


def _get(made: Bench, kind: type[State]) -> State:
    return made.vcpu.get(kind) if issubclass(kind, VcpuState) else made.vm.get(kind)  # type: ignore[type-var]


def _put(made: Bench, state: State) -> None:
    if isinstance(state, VcpuState):
        made.vcpu.put(state)
    else:
        made.vm.put(state)  # type: ignore[arg-type]


def _all(made: Bench) -> dict[str, object]:
    """Every state, as far as it stands still."""
    known = examples(made.facts)
    return {kind.__name__: known.steady(_get(made, kind)) for kind in _kinds(made)}
