"""Facts that hold on each of several hosts, for one boot plan that shall run on any of them.

A plan made with them asks for nothing that one of the hosts lacks: the same bytes boot on KVM here, on KVM there, and
on an emulated processor. What the states of a host have in common is for its architecture to say.
"""

from __future__ import annotations

import functools

from anyvisor.architectures import part
from anyvisor.errors import PlanError
from anyvisor.facts import HostFacts
from anyvisor.states import State


def common_facts(first: HostFacts, *others: HostFacts) -> HostFacts:
    """Facts of a host that can do what all of these can, and no more.

    Where hosts only differ, as in their processor's name, they are those of the first. PlanError when they are of
    different architectures: no plan runs on both.
    """
    return functools.reduce(_common, others, first)


def _common(first: HostFacts, second: HostFacts) -> HostFacts:
    if first.architecture != second.architecture:
        raise PlanError(
            f"no facts hold both for {first.backend} ({first.architecture}) and for {second.backend} "
            f"({second.architecture}): a plan is for one architecture; make one for each"
        )
    same_tsc = first.tsc_khz == second.tsc_khz
    return HostFacts(
        backend="+".join(dict.fromkeys([*first.backend.split("+"), *second.backend.split("+")])),
        architecture=first.architecture,
        capabilities=first.capabilities & second.capabilities,
        states=tuple(name for name in first.states if name in second.states),
        modes=tuple(name for name in first.modes if name in second.modes),
        supported=_common_states(first, second),
        max_vcpus=min(first.max_vcpus, second.max_vcpus),
        recommended_vcpus=min(first.recommended_vcpus, second.recommended_vcpus),
        hardware_id_limit=min(first.hardware_id_limit, second.hardware_id_limit),
        max_memory_slots=min(first.max_memory_slots, second.max_memory_slots),
        physical_address_bits=min(first.physical_address_bits, second.physical_address_bits),
        tsc_khz=first.tsc_khz if same_tsc else 0,
        guest_tsc_khz=first.guest_tsc_khz if first.guest_tsc_khz == second.guest_tsc_khz else 0,
        notes=tuple(dict.fromkeys(first.notes + second.notes)),
    )


def _common_states(first: HostFacts, second: HostFacts) -> tuple[State, ...]:
    common_state = part(first.architecture, "common").common_state
    theirs = {type(each): each for each in second.supported}
    found = [common_state(each, theirs[type(each)]) for each in first.supported if type(each) in theirs]
    return tuple(each for each in found if each is not None)
