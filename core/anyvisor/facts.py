"""What a hypervisor and its host can do, asked once and kept as a value."""

from __future__ import annotations

import enum
import json
from typing import TypeVar

import attrs

from anyvisor.codec import from_data, to_data
from anyvisor.errors import PlanError, Unsupported
from anyvisor.states import State

S = TypeVar("S", bound=State)


class Capability(enum.Enum):
    """Something a hypervisor may or may not be able to do; ask `facts.has(...)` before relying on it."""

    IRQCHIP = "irqchip"
    """The platform's interrupt controllers live in the hypervisor (x86: 8259 pair, I/O APIC, local APICs)."""
    PIT = "pit"
    """The 8254 timer lives in the hypervisor."""
    IRQFD = "irqfd"
    """An eventfd can raise an interrupt without this process."""
    IOEVENTFD = "ioeventfd"
    """A guest write can signal an eventfd without an exit."""
    COALESCED_IO = "coalesced-io"
    """Guest writes can be gathered in a ring and handed over at the next exit."""
    READONLY_MEMORY = "readonly-memory"
    """RAM regions the guest can read and not write."""
    DIRTY_LOG = "dirty-log"
    """The hypervisor can say which pages the guest wrote."""
    GUEST_DEBUG = "guest-debug"
    """Single-stepping and breakpoints."""
    TSC_DEADLINE = "tsc-deadline"
    """The local APIC timer has a TSC-deadline mode."""
    SNAPSHOT = "snapshot"
    """Every state of a running machine can be read and put back."""
    NATIVE = "native"
    """Guest code runs on the host's own processor, by its virtualisation extensions. Without it, it is emulated."""
    FULL_SYSTEM = "full-system"
    """Whole operating systems run on it. Without it, only small guests do."""
    DETERMINISTIC = "deterministic"
    """It can run a guest in counted time, so that every run of the same plan is the same."""
    KICK = "kick"
    """`Vcpu.kick` ends `run` promptly, also when the guest spins."""
    FULL_PROCESSOR = "full-processor"
    """A whole processor: every instruction, exception and interrupt of the modes it has. Without it, a few only."""
    X2APIC = "x2apic"
    """x86: the hypervisor's local APICs take ids of 32 bits, which more than 255 of them need."""


@attrs.frozen
class HostFacts:
    """What a boot step may know of the host. Steps get this value and never a live handle.

    `supported` holds, for states of which a host offers a choice, the most it offers: `facts.supported_state(Cpuid)`
    is the CPUID table with every feature that a guest can be given. `states` names the vCPU and VM state types that
    the backend can get and put, in the order in which they are restored.
    """

    backend: str
    architecture: str
    capabilities: frozenset[Capability] = frozenset()
    states: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    """The processor modes in which it executes guest code, in the architecture's words (x86_64: real, protected,
    long); none for a backend that executes nothing."""
    supported: tuple[State, ...] = ()
    max_vcpus: int = 1
    recommended_vcpus: int = 1
    hardware_id_limit: int = 1 << 32
    """Hardware ids of vCPUs (x86: local APIC ids) are below that."""
    max_memory_slots: int = 1
    physical_address_bits: int = 36
    tsc_khz: int = 0
    """How fast the guest's time stamp counter counts, where a guest could not measure it; 0 where it can."""
    guest_tsc_khz: int = 0
    """How fast it counts as the hypervisor says, whether or not a guest can measure it; 0 where it does not say."""
    notes: tuple[str, ...] = ()
    """What a user should know about this host, a sentence each: `software KVM: cannot finish booting Linux`."""

    def has(self, capability: Capability) -> bool:
        """Whether the backend can do that."""
        return capability in self.capabilities

    def supported_state(self, kind: type[S]) -> S:
        """The most that the host offers of that state; Unsupported when it says nothing about it."""
        for each in self.supported:
            if isinstance(each, kind):
                return each
        raise Unsupported(f"the {self.backend} backend says nothing about the {kind.__name__} that this host supports")

    def to_json(self) -> str:
        """The facts as JSON text, to be kept or moved to another machine."""
        return json.dumps(to_data(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> HostFacts:
        """Facts from `to_json`; PlanError when the text is something else."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"host facts are not JSON: {error}") from error
        return from_data(data, cls, "host facts")
