"""A virtual machine: one emulated processor, its RAM, and MMIO wherever there is none."""

from __future__ import annotations

import errno
from typing import NoReturn, TypeVar

from anyvisor.clock import Clock, HostClock
from anyvisor.counted_clock import CountedClock
from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.facts import HostFacts
from anyvisor.memory import PAGE_BYTES, RamRegion, Region
from anyvisor.states import VmState
from anyvisor.x86_64.reset import reset_states
from anyvisor_unicorn.engine import Engine
from anyvisor_unicorn.pace import CountedPace, FreePace, Pace
from anyvisor_unicorn.processor import Processor
from anyvisor_unicorn.proof import Proof
from anyvisor_unicorn.states import VCPU_STATES
from anyvisor_unicorn.vcpu import UnicornVcpu

M = TypeVar("M", bound=VmState)

INSTRUCTION_NS = 5
"""A deterministic guest's 200 million instructions a second, about what the engine does."""
LOOK_NS = 200
"""What its look at the clock takes."""

NO_CHIPS = "the unicorn backend has no interrupt controllers of its own: give the machine the devices `pic` and `pit`"


class UnicornVm:
    """One VM, made by `UnicornHypervisor.create_vm`; see `anyvisor.hypervisor.Vm`."""

    def __init__(self, proof: Proof, facts: HostFacts, *, counted: bool, deterministic: bool):
        self._proof = proof
        self._most_regions = facts.max_memory_slots
        self._end = 1 << facts.physical_address_bits
        self._counts = counted or deterministic
        self._counted = CountedClock(INSTRUCTION_NS, LOOK_NS) if deterministic else None
        self.clock: Clock = self._counted or HostClock()
        """The host's time, or that which the guest makes pass."""
        self._memory: list[RamRegion] = []
        self._vcpu: UnicornVcpu | None = None
        self.closed = False

    def map_memory(self, ram: RamRegion, *, readonly: bool = False) -> None:
        """Give the guest a region of RAM, before its vCPU. The mapping must outlive the VM.

        HypervisorError for one that overlaps another, is no whole number of pages, or is one too many.
        """
        if readonly:
            raise Unsupported("the unicorn backend has no memory that is read-only for the guest")
        if self.closed:
            raise HypervisorError("uc_mem_map_ptr", errno.EBADF, f"{ram.region}: the VM is closed")
        if self._vcpu is not None:
            raise HypervisorError("uc_mem_map_ptr", errno.EBUSY, f"{ram.region}: memory comes before the vCPU")
        self._check_region(ram.region)
        self._memory.append(ram)

    def _check_region(self, region: Region) -> None:
        """Refuse at once what the engine would refuse later, or could not tell from another region."""
        if region.start % PAGE_BYTES or region.size_bytes % PAGE_BYTES:
            text = f"{region} is no whole number of {PAGE_BYTES}-byte pages"
            raise HypervisorError("uc_mem_map_ptr", errno.EINVAL, text)
        for other in self._memory:
            if region.overlaps(other.region):
                raise HypervisorError("uc_mem_map_ptr", errno.EEXIST, f"{region} overlaps {other.region}")
        if len(self._memory) == self._most_regions:
            text = f"{region}: there are {self._most_regions} regions already"
            raise HypervisorError("uc_mem_map_ptr", errno.ENOSPC, text)

    def get(self, kind: type[M]) -> M:
        """Unsupported: there is nothing that vCPUs share."""
        raise Unsupported(f"no {kind.__name__} here: {NO_CHIPS}")

    def put(self, state: VmState) -> None:
        """Unsupported: there is nothing that vCPUs share."""
        raise Unsupported(f"no {type(state).__name__} here: {NO_CHIPS}")

    def create_vcpu(self, index: int, hardware_id: int | None = None) -> UnicornVcpu:  # noqa: ARG002 - it has no APIC
        """The VM's one vCPU; HypervisorError (EEXIST) for a second."""
        if self._vcpu is not None or self.closed:
            raise HypervisorError(
                "uc_open", errno.EBADF if self.closed else errno.EEXIST, f"vCPU {index}: a VM has one here"
            )
        engine = Engine()
        try:
            self._proof.prepare(engine, counted=self._counts)
            cpu = Processor(engine)
            self._vcpu = vcpu = UnicornVcpu(index, engine, cpu, self._pace(engine), self._counted)
            self._map(engine, cpu, vcpu)
            if self._proof.halt_flag is not None:
                vcpu.io.rip = self._proof.halt_flag.rip_of(engine)
            _reset(vcpu)
        except BaseException:
            self._vcpu = None
            engine.close()
            raise
        return vcpu

    def _pace(self, engine: Engine) -> Pace:
        if not self._counts:
            assert self._proof.halt_flag is not None
            return FreePace(engine, self._proof.halt_flag.of(engine))
        assert self._proof.counter_offset is not None
        if self._counted is None:
            return CountedPace(engine, self._proof.counter_offset)
        return CountedPace(engine, self._proof.counter_offset, self._counted.steps_until_next)

    def _map(self, engine: Engine, cpu: Processor, vcpu: UnicornVcpu) -> None:
        """RAM where it is, and the bus in all the room between."""
        end = 0
        for ram in sorted(self._memory, key=lambda each: each.region.start):
            region = ram.region
            engine.map_ram(region.start, region.size_bytes, ram.host_address)
            cpu.ram.add(ram)
            _map_mmio(engine, vcpu, end, region.start)
            end = region.end
        _map_mmio(engine, vcpu, end, self._end)

    def set_irq(self, gsi: int, level: bool) -> None:  # noqa: ARG002
        """Unsupported: the machine has its own interrupt controllers."""
        raise Unsupported(f"interrupt line {gsi} leads nowhere: {NO_CHIPS}")

    def add_irqfd(self, fd: int, gsi: int, resample_fd: int = -1) -> None:  # noqa: ARG002
        """Unsupported, as every eventfd here: ask the facts for Capability.IRQFD first."""
        _no_eventfds()

    def remove_irqfd(self, fd: int, gsi: int) -> None:  # noqa: ARG002
        """Unsupported."""
        _no_eventfds()

    def add_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:  # noqa: ARG002
        """Unsupported: ask the facts for Capability.IOEVENTFD first."""
        _no_eventfds()

    def remove_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:  # noqa: ARG002
        """Unsupported."""
        _no_eventfds()

    def coalesce(self, region: Region, *, port: bool = False) -> None:  # noqa: ARG002
        """Unsupported: ask the facts for Capability.COALESCED_IO first."""
        raise Unsupported(f"the unicorn backend gathers no writes to {region}: each is answered as it comes")

    def close(self) -> None:
        """Close the vCPU and the clock; HypervisorError (EBUSY) while a thread is still in `run`."""
        if self._vcpu is not None:
            self._vcpu.close()
        self.clock.close()
        self._memory.clear()
        self.closed = True


def _reset(vcpu: UnicornVcpu) -> None:
    """A new engine is in a mode of its own."""
    for state in reset_states():
        if type(state) in VCPU_STATES:
            vcpu.put(state)


def _map_mmio(engine: Engine, vcpu: UnicornVcpu, start: int, end: int) -> None:
    if start == end:
        return

    def read(_: int, offset: int, size: int, __: int) -> int:
        return vcpu.io.read_mmio(start + offset, size)

    def write(_: int, offset: int, size: int, value: int, __: int) -> None:
        vcpu.io.write_mmio(start + offset, size, value)

    engine.map_mmio(start, end - start, read, write)


def _no_eventfds() -> NoReturn:
    raise Unsupported("the unicorn backend has no eventfds: interrupts and I/O go through this process anyway")
