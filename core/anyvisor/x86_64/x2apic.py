"""Machines with more processors than eight bits can number: their local APICs start in x2APIC mode.

Some facts about x2APIC mode (SDM Vol. 3, 11.12). A local APIC has an id of eight bits; in x2APIC mode, which bit 10 of
IA32_APIC_BASE switches on, it has one of 32, and its registers are MSRs. A processor whose id needs more than eight
bits cannot be reached in the old mode: its start-up interrupt has nowhere to go. So the firmware of such a machine
switches every processor over before it hands them to the OS, which then finds them so, and has only to stay. An INIT
leaves the mode as it is. The mode cannot be left but by switching the APIC off.

Without firmware, a plan says it: bit 10 of the APIC base is among the Sregs of every vCPU, also of those that have no
other registers because they wait for INIT and SIPI. It comes behind the CPUID table, which must have x2APIC, and before
the local APIC's registers, whose id it changes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import attrs

from anyvisor.config import Topology
from anyvisor.errors import ConfigError, UnsupportedConfig
from anyvisor.facts import Capability, HostFacts
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.control import ApicBase
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.lapic import LAPIC_BASE
from anyvisor.x86_64.state import Sregs
from anyvisor.x86_64.topology import MAX_XAPIC_ID, last_apic_id, needs_x2apic

PlannedStates = tuple[VcpuState | Change, ...]


def check_ids(topology: Topology, facts: HostFacts) -> None:
    """UnsupportedConfig when the hypervisor's local APICs cannot have the ids that the topology gives them."""
    last = last_apic_id(topology)
    if last >= facts.hardware_id_limit:
        raise UnsupportedConfig(
            f"topology: {topology} needs the APIC id {last}, and those of the {facts.backend} backend end at "
            f"{facts.hardware_id_limit - 1}; make dies, cores and threads powers of two, or have fewer sockets"
        )
    has_x2apics = facts.has(Capability.IRQCHIP) and facts.has(Capability.X2APIC)  # a machine's own APICs are no x2APICs
    if needs_x2apic(topology) and not has_x2apics:
        raise UnsupportedConfig(
            f"topology: {topology} needs the APIC id {last}, and without x2APIC, which the {facts.backend} backend "
            f"has not, {MAX_XAPIC_ID} is the highest; make dies, cores and threads powers of two, or have fewer vCPUs"
        )


def check_cpuid(topology: Topology, cpuid: Cpuid) -> None:
    """ConfigError when the processor that a guest is shown has no x2APIC, and the machine cannot do without."""
    if needs_x2apic(topology) and not cpuid.has(Feature.X2APIC):
        raise ConfigError(
            f"cpu: the processor has no x2APIC, and {topology} needs the APIC id {last_apic_id(topology)}, where "
            f"without it {MAX_XAPIC_ID} is the highest; take a CPU model with x2APIC, or have fewer vCPUs"
        )


def in_x2apic_mode(states: Iterable[VcpuState | Change], *, boot_processor: bool) -> PlannedStates:
    """The registers of a vCPU, its local APIC enabled and in x2APIC mode; the rest as it was, or as after a reset."""
    return _with_mode(states, boot_processor=boot_processor, enabled=True, x2apic=True)


def without_apic(states: Iterable[VcpuState | Change], *, boot_processor: bool) -> PlannedStates:
    """The registers of a vCPU whose local APIC is switched off, for one whose CPUID has none.

    A processor shows the APIC in its CPUID as long as it is enabled, whatever the table says, and a kernel that sees it
    uses it.
    """
    return _with_mode(states, boot_processor=boot_processor, enabled=False, x2apic=False)


def _with_mode(states: Iterable[VcpuState | Change], *, boot_processor: bool, **mode: bool) -> PlannedStates:
    usual = ApicBase(LAPIC_BASE, enabled=True, bsp=boot_processor)
    done = tuple(_switched(each, usual, mode) for each in states)
    if any(isinstance(each, Sregs) or (isinstance(each, Change) and each.kind is Sregs) for each in done):
        return done
    return (*done, _mode_alone(usual.replace(**mode)))


@functools.cache
def _mode_alone(base: ApicBase) -> Change:
    return Change(Sregs, apic_base=base)


def _switched(state: VcpuState | Change, usual: ApicBase, mode: dict[str, bool]) -> VcpuState | Change:
    if isinstance(state, Sregs):
        return attrs.evolve(state, apic_base=state.apic_base.replace(**mode))
    if not isinstance(state, Change) or state.kind is not Sregs:
        return state
    before = ApicBase(state.fields.get("apic_base", usual))
    return Change(Sregs, **{**state.fields, "apic_base": before.replace(**mode)})
