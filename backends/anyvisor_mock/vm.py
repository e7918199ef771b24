"""A VM of the mock: memory, vCPUs, lines and eventfds, with KVM's rules."""

from __future__ import annotations

import threading
from typing import TypeVar

from anyvisor.clock import Clock, HostClock
from anyvisor.closing import Closing
from anyvisor.codec import name_of
from anyvisor.counted_clock import CountedClock
from anyvisor.errors import AnyvisorError, PlanError
from anyvisor.facts import Capability, HostFacts
from anyvisor.memory import PAGE_BYTES, RamRegion, Region
from anyvisor.states import State, VmState
from anyvisor_mock import rules
from anyvisor_mock.architecture import architecture_of
from anyvisor_mock.desk import Desk, public
from anyvisor_mock.eventfds import Doorbell, Eventfds
from anyvisor_mock.player import Guests, guest_of
from anyvisor_mock.space import Space
from anyvisor_mock.vcpu import MockVcpu

M = TypeVar("M", bound=VmState)

ACT_NS, LOOK_NS = 1000, 10
"""What an act of a deterministic VM's script takes, and a look at its clock."""
VCPU_ID_BITS = 32
ADDRESS_END = 1 << 52
"""The architecture's limit of physical addresses, and KVM's where it pages in software."""


class MockVm(Closing):
    """One VM, made by `MockHypervisor.create_vm`; see `anyvisor.hypervisor.Vm`.

    `vcpus` are those that were made, by their order.
    """

    vcpu_type = MockVcpu
    """What `create_vcpu` makes; for subclasses."""

    def __init__(
        self, number: int, desk: Desk, facts: HostFacts, script: Guests | None = None, *, deterministic: bool = False
    ):
        self.name = f"vm {number}"
        self.desk = desk
        self.facts = facts
        self.script = script
        self._counted = CountedClock(ACT_NS, LOOK_NS) if deterministic else None
        self.clock: Clock = self._counted or HostClock()
        self.vcpus: list[MockVcpu] = []
        self._architecture = architecture_of(facts)
        self._chips = self._architecture.chips(self.name)
        self._eventfds = Eventfds(self.name)
        self.space = Space(self._eventfds)
        self._memory: list[RamRegion] = []
        self._ids: set[int] = set()
        self._levels: dict[int, bool] = {}
        self._risen = False
        self._lock = threading.Lock()
        self._closed = False

    # -- memory and states ---------------------------------------------------------------------------------------------

    @public
    def map_memory(self, ram: RamRegion, *, readonly: bool = False) -> None:
        """Give the guest a region of RAM."""
        self._check("map_memory")
        if readonly:
            self._need("map_memory", Capability.READONLY_MEMORY)
        if broken := self._refuse_memory(ram.region):
            raise broken
        self._memory.append(ram)
        self.space.mapped.append((ram, readonly))

    def _refuse_memory(self, region: Region) -> AnyvisorError | None:
        detail = f"{self.name}: {region}"
        if region.start % PAGE_BYTES or region.size_bytes % PAGE_BYTES or region.size_bytes <= 0:
            return rules.MEMORY_PAGES.broken("map_memory", detail)
        if region.start < 0 or region.end > ADDRESS_END:
            return rules.MEMORY_ADDRESSES.broken("map_memory", detail)
        bits = self.facts.physical_address_bits
        if region.end > 1 << bits and self.facts.has(Capability.NATIVE):
            return rules.MEMORY_REACHABLE.broken("map_memory", f"{detail}, the host has addresses of {bits} bits")
        if len(self._memory) >= self.facts.max_memory_slots:
            return rules.MEMORY_SLOTS.broken("map_memory", detail)
        taken = next((each.region for each in self._memory if region.overlaps(each.region)), None)
        return None if taken is None else rules.MEMORY_OVERLAP.broken("map_memory", f"{detail} overlaps {taken}")

    @public
    def get(self, kind: type[M]) -> M:
        """A part of the state that vCPUs share."""
        self._check(f"get {kind.__name__}")
        self.check_known(f"get {kind.__name__}", kind)
        state: M = self._chips.get(kind)
        return state

    @public
    def put(self, state: VmState) -> None:
        """Set such a part; the first put of a chip creates it."""
        operation = f"put {type(state).__name__}"
        self._check(operation)
        self.check_known(operation, type(state))
        self._chips.put(state, vcpus=len(self.vcpus))

    def check_known(self, operation: str, kind: type[State]) -> None:
        """Unsupported for a state type that the facts do not name."""
        try:
            known = name_of(kind) in self.facts.states
        except PlanError:
            known = False
        if not known:
            raise rules.KNOWN_STATES.broken(operation, f"{self.name}: the facts name {', '.join(self.facts.states)}")

    # -- vCPUs ---------------------------------------------------------------------------------------------------------

    @public
    def create_vcpu(self, index: int, hardware_id: int | None = None) -> MockVcpu:
        """A new vCPU in its reset state, with the part of the script that is its own."""
        self._check("create_vcpu")
        number = index if hardware_id is None else hardware_id
        if broken := self._refuse_vcpu(number):
            raise broken
        self._ids.add(number)
        processor = self._architecture.processor(f"{self.name} / vcpu {index}", number, self.facts, self._chips)
        made = self.vcpu_type(index, self, processor, guest_of(self.script, index))
        self.vcpus.append(made)
        return made

    def _refuse_vcpu(self, number: int) -> AnyvisorError | None:
        detail = f"{self.name}: vCPU number {number:#x}"
        if number >> VCPU_ID_BITS:
            return rules.WIDTHS.broken("create_vcpu", detail)
        if number >= self.facts.hardware_id_limit:
            return rules.VCPU_ID_LIMIT.broken("create_vcpu", detail)
        if len(self.vcpus) >= self.facts.max_vcpus:
            return rules.VCPU_LIMIT.broken("create_vcpu", detail)
        return rules.VCPU_ID_UNIQUE.broken("create_vcpu", detail) if number in self._ids else None

    # -- interrupt lines -----------------------------------------------------------------------------------------------

    @property
    def has_irqchip(self) -> bool:
        """Whether the interrupt chips are in the hypervisor."""
        return self._chips.has_irqchip

    @public
    def set_irq(self, gsi: int, level: bool) -> None:
        """Raise or lower a line; one that rises wakes the boot processor out of HLT if its interrupts are on."""
        self._need("set_irq", Capability.IRQCHIP)
        self._check("set_irq")
        self._chips.check_line(gsi)
        with self._lock:
            self._risen = self._risen or (level and not self._levels.get(gsi, False))
            self._levels[gsi] = level
        for vcpu in self.vcpus[:1]:
            vcpu.look()

    def take_risen_line(self, index: int) -> bool:
        """Whether that vCPU has an interrupt of the chips to take; it is over with this."""
        with self._lock:
            risen = self._risen and index == 0
            self._risen = self._risen and not risen
            return risen

    # -- eventfds ------------------------------------------------------------------------------------------------------

    @public
    def add_irqfd(self, fd: int, gsi: int, resample_fd: int = -1) -> None:
        """Remember that an eventfd raises `gsi`; see `anyvisor_mock.eventfds`."""
        self._need("add_irqfd", Capability.IRQFD)
        self._check("add_irqfd")
        self._eventfds.add_line(fd, gsi, resample_fd, has_chips=self.has_irqchip)

    @public
    def remove_irqfd(self, fd: int, gsi: int) -> None:
        """Undo `add_irqfd`."""
        self._need("remove_irqfd", Capability.IRQFD)
        self._check("remove_irqfd")
        self._eventfds.remove_line(fd, gsi)

    @public
    def add_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:
        """Signal an eventfd on the script's writes to `region`, or only on those of the value `match`."""
        self._need("add_ioeventfd", Capability.IOEVENTFD)
        self._check("add_ioeventfd")
        self._eventfds.add_doorbell(Doorbell(fd, region.start, region.size_bytes, port, match))

    @public
    def remove_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:
        """Undo `add_ioeventfd`."""
        self._need("remove_ioeventfd", Capability.IOEVENTFD)
        self._check("remove_ioeventfd")
        self._eventfds.remove_doorbell(Doorbell(fd, region.start, region.size_bytes, port, match))

    @public
    def coalesce(self, region: Region, *, port: bool = False) -> None:
        """Let the script's writes to `region` wait, and deliver them, in order, before what the bus sees next."""
        self._need("coalesce", Capability.COALESCED_IO)
        self._check("coalesce")
        self.space.gather(region, port=port)

    # -- time ----------------------------------------------------------------------------------------------------------

    def pass_time(self) -> None:
        """A vCPU has played an act."""
        if self._counted is not None:
            self._counted.advance(1)

    def skip_time(self) -> bool:
        """A vCPU waits: whether that has ended because the time is not the host's."""
        return self._counted is not None and self._counted.skip()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _need(self, operation: str, capability: Capability) -> None:
        if not self.facts.has(capability):
            question = f"facts.has(Capability.{capability.name})"
            raise rules.CAPABILITIES.broken(operation, f"{self.name} has no {capability.value}; ask {question} first")

    def _check(self, operation: str) -> None:
        if self._closed:
            raise rules.CLOSED.broken(operation, f"{self.name} is closed")

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    @public
    def close(self) -> None:
        """Close the vCPUs and the clock; HypervisorError (EBUSY) while a thread is still running a vCPU."""
        self.give_back()

    def give_back(self) -> None:
        """What `close` does, for its hypervisor."""
        for vcpu in reversed(self.vcpus):
            vcpu.give_back()
        self.clock.close()
        self._memory.clear()
        self.space.mapped.clear()
        self._closed = True
