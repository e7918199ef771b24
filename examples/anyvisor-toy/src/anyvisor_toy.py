"""anyvisor on the toy hypervisor: all that it takes to add one."""

import errno

import attrs
from toy_cpu import HLT, ToyCpu

from anyvisor import Capability, HostFacts, HypervisorError, Unsupported, hookimpl
from anyvisor.clock import HostClock
from anyvisor.exits import Halted, InternalError
from anyvisor.hypervisor import Hypervisor, Vcpu, Vm
from anyvisor.memory import PAGE_BYTES
from anyvisor.states import Kept
from anyvisor.turn import Turn
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Regs, Sregs

ENDS = {HLT: Halted(), None: InternalError(1, cause="the toy has no such instruction")}
"""The instructions that end a run; those of which `ToyCpu.step` returns None it does not know."""


@hookimpl
def anyvisor_hypervisors():
    return {"toy": "anyvisor_toy:ToyHypervisor"}


class ToyHypervisor(Hypervisor):
    facts = HostFacts("toy", "x86_64", frozenset({Capability.KICK}), ("x86_64.Regs", "x86_64.Sregs"), modes=("real",))

    def __init__(self):
        self._turn = Turn("the hypervisor")

    def create_vm(self, *, deterministic=False):
        self._turn.check("create_vm")
        if deterministic:
            raise Unsupported("the toy backend knows only the host's time")
        return ToyVm()

    def close(self):
        self._turn.close()


class ToyVm(Vm):
    def __init__(self):
        self.clock, self.memory, self._vcpu, self._turn = HostClock(), b"", None, Turn("the VM")

    def map_memory(self, ram, *, readonly=False):
        self._turn.check("map_memory")
        if readonly or self.memory or ram.region.start or ram.region.size_bytes % PAGE_BYTES:
            raise Unsupported(f"{ram.region}: the toy backend has one region of RAM: writable, whole pages from 0 on")
        self.memory = ram.view

    def create_vcpu(self, index, hardware_id=None):
        self._turn.check("create_vcpu")
        if index or self._vcpu:
            raise HypervisorError("create_vcpu", errno.EEXIST, f"vCPU {index}: the toy backend has one, number 0")
        self._vcpu = ToyVcpu(index, self)
        return self._vcpu

    def close(self):
        for part in filter(None, (self._vcpu, self._turn, self.clock)):
            part.close()


class ToyVcpu(Vcpu):
    def __init__(self, index, vm):
        self.index, self._vm, self._turn, self._cpu = index, vm, Turn(f"vCPU {index}"), ToyCpu()
        self._states = Kept(state for state in reset_states() if isinstance(state, Regs | Sregs))
        for state in list(self._states.values()):
            self.put(state)

    def get(self, kind):
        self._turn.check(f"get {kind.__name__}")
        if kind is Regs:
            before = self._states[Regs]
            self._states[Regs] = attrs.evolve(before, rip=self._cpu.ip, rax=before.rax & ~0xFF | self._cpu.al)
        return self._states[kind]

    def put(self, state):
        self.get(type(state))
        if isinstance(state, Regs) and state.rax >> 64:
            raise HypervisorError("put Regs", errno.EINVAL, f"rax holds no {state.rax:#x}")
        self._states[type(state)] = state
        if isinstance(state, Regs):
            self._cpu.ip, self._cpu.al = state.rip, state.rax & 0xFF
        else:
            self._cpu.code_base, self._cpu.data_base = state.cs.base, state.ds.base

    def run(self, bus):
        return self._turn.run(lambda: ENDS.get(self._cpu.step(self._vm.memory, bus)))

    def kick(self):
        self._turn.kick()

    def close(self):
        self._turn.close()
