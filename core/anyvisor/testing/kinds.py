"""The state types that a backend says it has: those of a vCPU and those of a VM, in the order of its facts."""

from __future__ import annotations

import importlib
from typing import Any

from anyvisor.codec import class_named
from anyvisor.facts import HostFacts
from anyvisor.states import VcpuState, VmState


def vcpu_kinds(facts: HostFacts) -> list[type[VcpuState]]:
    """The types that `Vcpu.get` and `put` know."""
    return [kind for kind in map(class_named, facts.states) if issubclass(kind, VcpuState)]


def vm_kinds(facts: HostFacts) -> list[type[VmState]]:
    """The types that `Vm.get` and `put` know."""
    return [kind for kind in map(class_named, facts.states) if issubclass(kind, VmState)]


def examples(facts: HostFacts) -> Any:
    """The architecture's example states: `before(facts)`, `changed(state, facts)`, `steady(state)`."""
    return importlib.import_module(f"anyvisor.testing.{facts.architecture}.state_examples")
