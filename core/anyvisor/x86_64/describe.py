"""A boot plan in words: what its bytes and states mean, read back as the guest will read them.

Tables are found by `read_back`, `handed_over` and `firmware_tables`, so what is shown is what counts, also when a
plugin has replaced a step. The parts are in `describe_tables`, `describe_processors` and `describe_states`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyvisor.facts import HostFacts
from anyvisor.memory import Region
from anyvisor.picture import Landmarks
from anyvisor.plan import BootPlan
from anyvisor.section import Section
from anyvisor.x86_64 import describe_processors as processors
from anyvisor.x86_64 import describe_states as states
from anyvisor.x86_64 import describe_tables as tables
from anyvisor.x86_64.firmware_tables import READ_ERRORS, Firmware

Part = Callable[[], tuple[str, Any]]
"""Gives a section's text, and the value that it tells of."""


def describe(plan: BootPlan, facts: HostFacts) -> list[Section]:
    """All that a plan does, in boot order, a section each. `facts` are those that it was made with.

    A table that cannot be read back is described by the reason.
    """
    firmware = Firmware(plan)
    parts: dict[str, Part] = {
        "Memory map": lambda: (plan.describe(), None),
        "GDT": lambda: tables.gdt(plan),
        "Page tables": lambda: tables.page_tables(plan),
        "Boot parameters": lambda: tables.boot_params(firmware),
        "ACPI tables": lambda: tables.acpi(firmware),
        "MP table": lambda: tables.mptable(firmware),
        "SMBIOS tables": lambda: tables.smbios(firmware),
        "Processor": lambda: processors.processor(plan),
        "Topology": lambda: processors.topology(plan),
        "NUMA": lambda: processors.numa(firmware),
        "CPUID, as against the host's": lambda: (processors.cpuid_changes(plan, facts), None),
        "MSRs": lambda: (states.msrs(plan), None),
        "Registers": lambda: (states.registers(plan), None),
        "Virtual machine": lambda: (states.machine(plan), None),
        "Devices": lambda: (states.devices(plan), None),
        "Steps": lambda: (states.steps(plan), None),
    }
    return [_section(title, part) for title, part in parts.items()]


def _section(title: str, part: Part) -> Section:
    try:
        return Section(title, *part())
    except READ_ERRORS as error:
        return Section(title, f"cannot be read: {error}")


def landmarks(plan: BootPlan) -> Landmarks:
    """What a picture of the plan's memory shows besides its pieces: reserved RAM, and the interrupt controllers."""
    firmware = Firmware(plan)
    return Landmarks(_attempt(firmware.reserved_ram), _attempt(firmware.interrupt_controllers))


def _attempt(find: Callable[[], Any]) -> tuple[Region, ...]:
    try:
        return tuple(find())
    except READ_ERRORS:  # of a table that is broken, `describe` tells
        return ()
