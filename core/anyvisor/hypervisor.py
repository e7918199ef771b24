"""The three protocols that a backend implements: `Hypervisor`, `Vm`, `Vcpu`.

They hold only what every architecture and every hypervisor has. State is addressed by type: which types there are
stands in `anyvisor.x86_64.state` and its siblings, which of them a backend knows in its `HostFacts`.

A backend may subclass them, and then leave out what it cannot do: the methods that need a capability raise
`Unsupported` here, and a processor without interrupts takes none. It need not subclass them to be one.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Protocol, Self, TypeVar

from anyvisor.bus import Bus
from anyvisor.clock import Clock
from anyvisor.errors import Unsupported
from anyvisor.exits import Exit
from anyvisor.facts import Capability, HostFacts
from anyvisor.flight import ExitRing
from anyvisor.interrupts import InterruptSource
from anyvisor.memory import RamRegion, Region
from anyvisor.states import VcpuState, VmState

S = TypeVar("S", bound=VcpuState)
M = TypeVar("M", bound=VmState)


def _lacks(vm: Vm, capability: Capability) -> NoReturn:
    question = f"facts.has(Capability.{capability.name})"
    raise Unsupported(f"{type(vm).__name__} has no {capability.value}; ask {question} first")


class Vcpu(Protocol):
    """One virtual processor.

    All but `kick` and `notify_interrupt` belong to one thread at a time. Errors: `HypervisorError` when the hypervisor
    refuses a state, and then the one before is still there; `Unsupported` for a state type that the backend does not
    know. A closed vCPU refuses `get`, `put` and `run` with HypervisorError (EBADF).
    """

    if TYPE_CHECKING:  # a property of a protocol would be inherited, and could not be set by who subclasses it

        @property
        def index(self) -> int:
            """Which vCPU of its VM this is, from 0."""
            ...

    def get(self, kind: type[S]) -> S:
        """A part of the vCPU's state: `vcpu.get(Regs)`."""
        ...

    def put(self, state: VcpuState) -> None:
        """Set a part of the vCPU's state: `vcpu.put(attrs.evolve(regs, rip=0x1000))`."""
        ...

    def run(self, bus: Bus) -> Exit:
        """Run the guest until there is something that somebody has to decide on.

        Port and MMIO accesses are answered by `bus` on the way, and interrupts of the source taken. A vCPU that
        halts waits in here for its next interrupt; `Halted` is for one that nothing can wake, and the next `run` goes
        on behind its HLT. What a device raises comes out, and its access is over.

        HypervisorError (EBUSY) when another thread is in `run`. In the main thread Python's signal handlers run soon,
        and what they raise comes out: a handler that wants `run` to return calls `kick`. A signal alone may end `run`
        with `Kicked`, or not.
        """
        ...

    def take_interrupts_from(self, source: InterruptSource) -> None:
        """Wire this vCPU's INTR pin to a controller of the machine's own, before it runs.

        For a VM whose interrupt controllers are not in the hypervisor; Unsupported for one that has them there. A
        processor without interrupts never asks the source for any.
        """
        return

    def notify_interrupt(self) -> None:
        """Look at the interrupt source soon: its `pending` has changed. From any thread; `run` does not return."""
        return

    def record_exits(self, ring: ExitRing) -> bool:
        """Note every access in `ring` from now on (see `anyvisor.flight`), before or after its device is called.

        False for a vCPU that leaves that to its caller, who then notes what the bus is asked.
        """
        return False

    def kick(self) -> None:
        """Make `run` return soon with `Kicked`; from any thread or signal handler, and from a device that is called.

        A kick lasts until a `run` has returned `Kicked`: while nobody is in `run`, it makes the next one return before
        the guest does anything, and when another exit or an error comes first, that is told first and the run after it
        returns `Kicked`. Kicks do not count: two before a return are one. When `run` returns `Kicked` no access is half
        done. Does nothing to a closed vCPU.
        """
        ...

    def close(self) -> None:
        """Give the vCPU back; may be called twice. HypervisorError (EBUSY) while a thread is in `run`."""
        ...


class Vm(Protocol):
    """One virtual machine: memory, vCPUs, and what the vCPUs share."""

    if TYPE_CHECKING:  # a property of a protocol would be inherited, and could not be set by who subclasses it

        @property
        def clock(self) -> Clock:
            """The time that the VM's devices live in. Belongs to the VM and is closed with it."""
            ...

    def map_memory(self, ram: RamRegion, *, readonly: bool = False) -> None:
        """Let the guest see a region of RAM. The mapping must outlive the VM.

        Loads from a `readonly` one are RAM's, and stores to it go to the bus; Capability.READONLY_MEMORY. Refused with
        HypervisorError or Unsupported when it overlaps another, is no whole number of pages, or is one more than
        `facts.max_memory_slots`; by some backends, too, when there is a vCPU already.
        """
        ...

    def get(self, kind: type[M]) -> M:
        """A part of the state that vCPUs share: `vm.get(Irqchip)`."""
        raise Unsupported(f"{type(self).__name__} has no {kind.__name__}; facts.states names what there is")

    def put(self, state: VmState) -> None:
        """Set such a part; the first put of a chip creates it."""
        raise Unsupported(f"{type(self).__name__} has no {type(state).__name__}; facts.states names what there is")

    def create_vcpu(self, index: int, hardware_id: int | None = None) -> Vcpu:
        """A new vCPU in its architecture's reset state; HypervisorError (EEXIST) when there is one of that index.

        `hardware_id` is what the guest and its interrupt controllers call it (x86: the local APIC id); the index
        if it is None.
        """
        ...

    def set_irq(self, gsi: int, level: bool) -> None:
        """Raise or lower an interrupt line of the platform's interrupt controller. Needs Capability.IRQCHIP."""
        _lacks(self, Capability.IRQCHIP)

    def add_irqfd(self, fd: int, gsi: int, resample_fd: int = -1) -> None:
        """Let an eventfd raise `gsi`; `resample_fd` is signalled at the guest's end of interrupt. Capability.IRQFD."""
        _lacks(self, Capability.IRQFD)

    def remove_irqfd(self, fd: int, gsi: int) -> None:
        """Undo `add_irqfd`."""
        _lacks(self, Capability.IRQFD)

    def add_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:
        """Signal an eventfd on guest writes to `region` (1, 2, 4 or 8 bytes), or only on those of the value `match`.

        `port` picks the I/O port space instead of MMIO. Needs Capability.IOEVENTFD.
        """
        _lacks(self, Capability.IOEVENTFD)

    def remove_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:
        """Undo `add_ioeventfd`."""
        _lacks(self, Capability.IOEVENTFD)

    def coalesce(self, region: Region, *, port: bool = False) -> None:
        """Gather guest writes to `region` and deliver them, in order, at the next exit. Capability.COALESCED_IO."""
        _lacks(self, Capability.COALESCED_IO)

    def close(self) -> None:
        """Give the VM and every vCPU still open back; may be called twice.

        HypervisorError (EBUSY) while a thread runs one of them. A closed VM refuses all else with HypervisorError
        (EBADF).
        """
        ...


class Hypervisor(Protocol):
    """A way to run virtual machines on this host. A context manager."""

    if TYPE_CHECKING:  # a property of a protocol would be inherited, and could not be set by who subclasses it

        @property
        def facts(self) -> HostFacts:
            """What it can do; asked once."""
            ...

    def create_vm(self, *, deterministic: bool = False) -> Vm:
        """A new, empty VM.

        One that is `deterministic` counts its time from what its guest does, so that two runs are the same; Unsupported
        without Capability.DETERMINISTIC.
        """
        ...

    def close(self) -> None:
        """Give the hypervisor back; may be called twice. It makes no VM any more.

        VMs that are still open stay usable or are closed with it, but once they are closed, too, nothing is held.
        """
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
