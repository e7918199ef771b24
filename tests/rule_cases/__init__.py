"""What KVM refuses and what it takes, as cases for any hypervisor; the modules here declare them, see `case`."""

from rule_cases import (  # noqa: F401 - they declare
    apic,
    cpuid,
    entry,
    eventfds,
    events,
    memory,
    msrs,
    registers,
    sregs,
    vm,
    xsave,
)
from rule_cases.case import CASES, NOT_HERE, Kvm

__all__ = ["CASES", "NOT_HERE", "Kvm"]
