"""The conformance suite: one class to inherit, every contract of `Hypervisor`, `Vm` and `Vcpu` checked."""

from __future__ import annotations

from anyvisor.testing.contracts.accesses import AccessContract
from anyvisor.testing.contracts.clock import ClockContract, CountedClockContract
from anyvisor.testing.contracts.eventfds import CoalescedContract, IoeventfdContract
from anyvisor.testing.contracts.facts import FactsContract
from anyvisor.testing.contracts.kick_races import KickRacesContract
from anyvisor.testing.contracts.kicks import KickContract
from anyvisor.testing.contracts.lacking import LackingContract
from anyvisor.testing.contracts.leaks import LeakContract
from anyvisor.testing.contracts.life import LifeContract, VcpusContract
from anyvisor.testing.contracts.life_machine import LifeMachineContract
from anyvisor.testing.contracts.machines import MachineContract
from anyvisor.testing.contracts.memory import MemoryContract
from anyvisor.testing.contracts.running import RunningContract, RunningTogetherContract
from anyvisor.testing.contracts.states import StatesContract
from anyvisor.testing.x86_64.contracts import X86Contracts
from anyvisor.testing.x86_64.interrupts import InterruptsContract, IrqfdContract
from anyvisor.testing.x86_64.intr_pin import IntrPinContract
from anyvisor.testing.x86_64.restoring import RestoringContract


class HypervisorTests(
    FactsContract,
    LackingContract,
    RunningContract,
    RunningTogetherContract,
    AccessContract,
    MemoryContract,
    VcpusContract,
    KickContract,
    KickRacesContract,
    StatesContract,
    ClockContract,
    CountedClockContract,
    X86Contracts,
    RestoringContract,
    IntrPinContract,
    InterruptsContract,
    IrqfdContract,
    IoeventfdContract,
    CoalescedContract,
    LifeContract,
    LeakContract,
    LifeMachineContract,
    MachineContract,
):
    """Every contract of a backend. Subclass it as `Test...`, and give it a fixture `hypervisor` that yields one, open.

    `conformance_version` is the version of the suite that you have: set it to today's `CONFORMANCE_VERSION`, and tests
    that a later anyvisor adds are skipped, naming their version, until you raise it.
    """
