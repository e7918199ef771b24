"""The rules of `life_machine`: what may be called when, and what must come of it. Needs hypothesis.

The model knows which VMs and vCPUs there are and which of them are open, the last state of each type put to a vCPU, and
whether a kick waits for it. Where backends may differ it takes either: the index of a vCPU that was closed may stay
taken, and a VM may take no memory any more when it has a vCPU.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from anyvisor.errors import AnyvisorError, HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.hypervisor import Hypervisor, Vcpu
from anyvisor.memory import PAGE_BYTES, GuestMemory, Region
from anyvisor.states import VcpuState
from anyvisor.testing.bench import MMIO, Bench
from anyvisor.testing.kinds import examples, vcpu_kinds

EXAMPLES, STEPS = 20, 30
MOST_VMS = 3
CHANGED = ("Regs", "Sregs", "DebugRegs")
"""The states that are put. They do not move by themselves, and a guest that is entered has its own."""
PICK = st.integers(min_value=0, max_value=5)
"""Picks one of the last that were made."""


@attrs.define(eq=False)
class ModelVm:
    """A VM, and whether it is open."""

    bench: Bench
    more_memory: GuestMemory
    is_open: bool = True
    has_more: bool = False
    """Whether its further memory is mapped."""
    indices: set[int] = attrs.field(factory=set)


@attrs.define(eq=False)
class ModelVcpu:
    """A vCPU, whether it is open and kicked, and what was put to it."""

    owner: ModelVm
    index: int
    place: int
    """Where it is among the bench's."""
    vcpu: Vcpu
    is_open: bool = True
    kicked: bool = False
    states: dict[type[VcpuState], VcpuState] = attrs.field(factory=dict)


class Life(RuleBasedStateMachine):
    """The rules. Each picks a VM or vCPU, whether it is open or not."""

    hypervisor: Hypervisor

    def __init__(self) -> None:
        super().__init__()
        self.vms: list[ModelVm] = []
        self.vcpus: list[ModelVcpu] = []

    @precondition(lambda self: sum(each.is_open for each in self.vms) < MOST_VMS)
    @rule()
    def create_vm(self) -> None:
        """A VM with memory, and no vCPU yet."""
        more = GuestMemory([Region(MMIO.end, 4 * PAGE_BYTES)])
        self.vms.append(ModelVm(Bench(self.hypervisor, vcpus=0), more))

    @precondition(lambda self: self.vms)
    @rule(pick=PICK)
    def map_memory(self, pick: int) -> None:
        """More memory, where there is room for it; a closed VM has none."""
        vm = self._vm(pick)
        (ram,) = vm.more_memory.regions
        if not vm.is_open:
            _refused(lambda: vm.bench.vm.map_memory(ram), errno.EBADF)
        elif not vm.has_more and not vm.indices and vm.bench.facts.max_memory_slots > 1:
            vm.bench.vm.map_memory(ram)
            vm.has_more = True

    @precondition(lambda self: self.vms)
    @rule(pick=PICK, index=st.integers(min_value=0, max_value=2))
    def create_vcpu(self, pick: int, index: int) -> None:
        """A vCPU where there can be one, and a refusal where there cannot."""
        vm = self._vm(pick)
        most = vm.bench.facts.max_vcpus
        if not vm.is_open:
            _refused(lambda: vm.bench.vm.create_vcpu(index), errno.EBADF)
        elif any(each.is_open and each.index == index for each in self.vcpus if each.owner is vm):
            _refused(lambda: vm.bench.vm.create_vcpu(index))
        elif index not in vm.indices and max(len(vm.indices), index) < most:
            self._create(vm, index)
        else:  # a backend may give a closed vCPU's index and place again
            with suppress(AnyvisorError):
                self._create(vm, index)

    def _create(self, vm: ModelVm, index: int) -> None:
        vcpu = vm.bench.vm.create_vcpu(index)
        vm.indices.add(index)
        vm.bench.vcpus.append(vcpu)
        self.vcpus.append(ModelVcpu(vm, index, len(vm.bench.vcpus) - 1, vcpu))

    @precondition(lambda self: self.vcpus)
    @rule(pick=PICK)
    def put(self, pick: int) -> None:
        """Put states that show; what is closed takes none."""
        each = self._vcpu(pick)
        known, facts = examples(each.owner.bench.facts), each.owner.bench.facts
        for kind in _kinds(each):
            if each.is_open:
                each.states[kind] = known.changed(each.vcpu.get(kind), facts)
                each.vcpu.put(each.states[kind])
            elif kind in each.states:
                _refused(partial(each.vcpu.put, each.states[kind]), errno.EBADF)

    @precondition(lambda self: self.vcpus)
    @rule(pick=PICK)
    def get(self, pick: int) -> None:
        """What is got is what was put; what is closed gives nothing."""
        each = self._vcpu(pick)
        for kind in _kinds(each):
            if not each.is_open:
                _refused(partial(each.vcpu.get, kind), errno.EBADF)
            elif kind in each.states:
                assert each.vcpu.get(kind) == each.states[kind]

    @precondition(lambda self: self.vcpus)
    @rule(pick=PICK)
    def kick(self, pick: int) -> None:
        """A kick is kept, and one of what is closed does nothing."""
        each = self._vcpu(pick)
        each.vcpu.kick()
        each.kicked = each.owner.bench.facts.has(Capability.KICK)

    @precondition(lambda self: self.vcpus)
    @rule(pick=PICK)
    def run(self, pick: int) -> None:
        """A guest that halts does so, unless a kick comes first; what is closed does not run."""
        each = self._vcpu(pick)
        bench = each.owner.bench
        if not each.is_open:
            return _refused(lambda: bench.run(each.place), errno.EBADF)
        bench.enter(bench.guests.OUT_42, vcpu=each.place)
        each.states.clear()
        before = len(bench.ports.writes)
        if each.kicked:
            assert bench.run(each.place) == Kicked()
            assert len(bench.ports.writes) == before, "a kick before `run`, and the guest ran"
            each.kicked = False
        assert bench.run(each.place) == Halted()
        return None

    @precondition(lambda self: self.vcpus)
    @rule(pick=PICK)
    def close_vcpu(self, pick: int) -> None:
        """Close a vCPU, for the first time or not."""
        each = self._vcpu(pick)
        each.vcpu.close()
        each.is_open = False

    @precondition(lambda self: self.vms)
    @rule(pick=PICK)
    def close_vm(self, pick: int) -> None:
        """Close a VM, for the first time or not; its vCPUs go with it."""
        vm = self._vm(pick)
        vm.bench.close()
        vm.is_open = False
        for each in self.vcpus:
            each.is_open = each.is_open and each.owner is not vm

    def teardown(self) -> None:
        """Close what is left."""
        for vm in self.vms:
            vm.bench.close()
            vm.more_memory.close()

    def _vm(self, pick: int) -> ModelVm:
        return self.vms[-1 - pick % len(self.vms)]

    def _vcpu(self, pick: int) -> ModelVcpu:
        return self.vcpus[-1 - pick % len(self.vcpus)]


def _kinds(each: ModelVcpu) -> list[type[VcpuState]]:
    return [kind for kind in vcpu_kinds(each.owner.bench.facts) if kind.__name__ in CHANGED]


def _refused(call: Callable[[], object], wanted: int | None = None) -> None:
    with pytest.raises(HypervisorError) as refused:
        call()
    assert wanted in (None, refused.value.errno)


def play(hypervisor: Hypervisor) -> None:
    """Some lives of some steps, always the same. One that fails is told by its fewest steps, unless it hangs."""
    try:
        _play(hypervisor, Phase.generate)
    except Exception:
        _play(hypervisor, Phase.generate, Phase.shrink)
        raise


def _play(hypervisor: Hypervisor, *phases: Phase) -> None:
    life = type("Life", (Life,), {"hypervisor": hypervisor})
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            phases=phases,
            derandomize=True,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType] - an enum, by a metaclass
        ),
    )
