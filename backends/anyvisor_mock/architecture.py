"""What an architecture adds to the mock: its processors, the chips that they share, and its rules."""

from __future__ import annotations

from typing import Any, Protocol

from anyvisor.errors import Unsupported
from anyvisor.exits import Exit
from anyvisor.facts import HostFacts
from anyvisor.states import VcpuState, VmState


class Processor(Protocol):
    """The states of one vCPU. Operations are named as the protocol names them; `name` is the vCPU's."""

    has_run: bool
    has_source: bool

    @property
    def halted(self) -> bool:
        """Whether it waits in HLT."""
        ...

    @halted.setter
    def halted(self, halted: bool) -> None: ...

    @property
    def waits_to_be_started(self) -> bool:
        """Whether another processor has to start it first."""
        ...

    @property
    def interrupts_on(self) -> bool:
        """Whether it takes interrupts."""
        ...

    def refused_entry(self) -> Exit | None:
        """What there is in place of an entry, if the host's processor refuses to enter it as it is."""
        ...

    def get(self, kind: type[VcpuState]) -> Any:
        """A state."""
        ...

    def put(self, state: VcpuState) -> None:
        """Set a state; HypervisorError when that breaks a rule."""
        ...


class Chips(Protocol):
    """The states that the vCPUs of one VM share."""

    @property
    def has_irqchip(self) -> bool:
        """Whether the interrupt chips are there."""
        ...

    def get(self, kind: type[VmState]) -> Any:
        """A state."""
        ...

    def put(self, state: VmState, *, vcpus: int) -> None:
        """Set a state, in a VM that has so many vCPUs; HypervisorError when that breaks a rule."""
        ...

    def check_line(self, gsi: int) -> None:
        """HypervisorError for a line that cannot be raised."""
        ...


class Architecture(Protocol):
    """Makes them."""

    name: str

    def chips(self, name: str) -> Chips:
        """Those of a new VM: none yet."""
        ...

    def processor(self, name: str, hardware_id: int, facts: HostFacts, chips: Chips) -> Processor:
        """A new one, in its reset state."""
        ...


def architecture_of(facts: HostFacts) -> Architecture:
    """What plays hosts of that architecture; Unsupported for one that the mock does not know."""
    if facts.architecture != "x86_64":
        raise Unsupported(f"the mock backend knows the rules of x86_64, not those of {facts.architecture}")
    from anyvisor_mock.x86_64 import X86_64  # noqa: PLC0415 - only the one that is asked for

    return X86_64
