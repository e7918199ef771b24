"""What an architecture adds to the KVM backend: its state types, what a VM needs at birth, and its facts."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import attrs

from anyvisor.errors import HypervisorUnavailable, Unsupported
from anyvisor.exits import FailEntry, GuestException, InternalError
from anyvisor.states import State, VcpuState, VmState
from anyvisor_kvm.abi import Cap
from anyvisor_kvm.fds import KvmFd, VcpuFd, VmFd
from anyvisor_kvm.run_page import RunPage

K = TypeVar("K", bound=State)
Accessors = tuple[Callable[[Any], Any], Callable[[Any, Any], None]]
"""`get(fd) -> state` and `put(fd, state)`."""


class Synced(Protocol):
    """Registers that KVM copies to the run page at each exit, so that reading them costs no ioctl."""

    def keep(self, kinds: tuple[type[VcpuState], ...]) -> None:
        """Copy these from now on; Unsupported for a kind that KVM does not copy."""
        ...

    def get(self, kind: type[VcpuState]) -> VcpuState | None:
        """The state as the run page has it; None when KVM must be asked."""
        ...

    def forget(self) -> None:
        """Something is about to change the vCPU: what the page holds will be out of date."""
        ...

    def refresh(self) -> None:
        """`run` is over, and the page up to date."""
        ...

    def record(self) -> tuple[int, slice | None]:
        """Copy from now on what a flight recorder keeps: RIP's word of the page, and where a state is, if any.

        See `anyvisor_kvm.noting.Taps`.
        """
        ...

    def fill(self) -> None:
        """Put into the page, for the recorder, what the vCPU has."""
        ...

    def states_in(self, kept: bytes) -> dict[type[VcpuState], VcpuState]:
        """The states in those bytes."""
        ...


@attrs.frozen
class Survey:
    """The facts of an architecture: see `HostFacts`."""

    supported: tuple[State, ...]
    physical_address_bits: int
    is_native: bool
    """Whether guest code runs on the processor itself."""
    guest_tsc_khz: int = 0
    """How fast the time stamp counter of a vCPU counts; 0 where KVM does not say."""
    notes: tuple[str, ...] = ()


@attrs.frozen
class Architecture:
    """One architecture's half of the backend. States are restored in the order of their tables."""

    name: str
    modes: tuple[str, ...]
    """See `HostFacts.modes`."""
    required: tuple[Cap, ...]
    kvm_fd: type[KvmFd]
    vm_fd: Callable[[Any, int], VmFd]
    """`vm_fd(kvm, number)`: a new VM's fd, to own; nothing is asked of it yet."""
    prepare_vm: Callable[[Any], None]
    vcpu_fd: Callable[[Any, int], VcpuFd]
    """`vcpu_fd(vm, number)`."""
    sync: Callable[[Any, RunPage], Synced]
    fail_entry: Callable[[int, int], FailEntry]
    """`fail_entry(hardware_reason, cpu)`: with its cause in words."""
    internal_error: Callable[[int, tuple[int, ...]], InternalError]
    """`internal_error(suberror, words)`: with what the words mean."""
    shutdown_lost_state: Callable[[Any], bool]
    """`shutdown_lost_state(fd)`: whether KVM has reset a vCPU that has just shut down."""
    undelivered: Callable[[Any], tuple[GuestException, ...]]
    """`undelivered(fd)`: the exceptions that such a vCPU could not deliver, as far as KVM knows."""
    survey: Callable[[Any], Survey]
    states_before: Mapping[type[VmState], Accessors]
    """VM states that are put before the first vCPU is created."""
    vcpu_states: Mapping[type[VcpuState], Accessors]
    states_after: Mapping[type[VmState], Accessors]


@functools.cache
def host_architecture() -> Architecture:
    """The architecture of this machine; HypervisorUnavailable for one that the backend does not know."""
    machine = platform.machine()
    if machine != "x86_64":
        raise HypervisorUnavailable(
            f"the KVM backend knows x86_64 machines, and this is {machine}", "choose another backend"
        )
    from anyvisor_kvm.x86_64 import X86_64  # noqa: PLC0415 - one architecture is enough

    return X86_64


def accessors(states: Mapping[type[K], Accessors], kind: type[State]) -> Accessors:
    """How to get and put a state of that type; Unsupported when the backend does not know it."""
    found = states.get(kind)  # type: ignore[arg-type]
    if found is None:
        known = ", ".join(each.__name__ for each in states)
        raise Unsupported(f"the kvm backend has no {kind.__name__} here; it has {known}")
    return found
