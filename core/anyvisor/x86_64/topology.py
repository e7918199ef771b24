"""Local APIC ids: how a vCPU's place in the machine becomes a number.

Some facts about APIC ids. An APIC id is four bit-fields: the thread in its core (lowest), the core in its die, the
die in its package, the package. Each field is as wide as its counts need, so with three cores to a package one id of
four stays unused: sockets=2, cores=3 gives 0, 1, 2, 4, 5, 6. Guests take ids apart by shifting, as CPUID leaves 0xB
and 0x1F tell them, so CPUID, the MP table, ACPI and the local APICs themselves must all use these very numbers.
SDM Vol. 3, 9.9.1 and 9.9.3; APM Vol. 3, appendix E.5.

Without x2APIC mode an id has eight bits, and 255 means every processor; in x2APIC mode it has 32
(`anyvisor.x86_64.x2apic`).
"""

from __future__ import annotations

import attrs

from anyvisor.config import Topology
from anyvisor.errors import ConfigError

MAX_XAPIC_ID = 254
"""The highest id of a local APIC that is not in x2APIC mode."""
MAX_APIC_ID = 0xFFFF_FFFE
"""In x2APIC mode; all ones mean every processor (SDM Vol. 3, 11.12.9)."""


@attrs.frozen
class Place:
    """Where one vCPU is: its package, its die in there, its core in the die, its thread in the core, all from 0."""

    topology: Topology
    socket: int
    die: int
    core: int
    thread: int

    @classmethod
    def of(cls, topology: Topology, vcpu: int) -> Place:
        """The place of vCPU number `vcpu`; threads count first, then cores and dies. ConfigError if it has none."""
        if not 0 <= vcpu < topology.vcpus:
            raise ConfigError(f"vCPU {vcpu}: the topology has vCPUs 0 to {topology.vcpus - 1}; give it more cores")
        core, thread = divmod(vcpu, topology.threads)
        die, core = divmod(core, topology.cores)
        socket, die = divmod(die, topology.dies)
        return cls(topology, socket, die, core, thread)

    @property
    def apic_id(self) -> int:
        """The APIC id; ConfigError when it has more than 32 bits, or is the one that means all."""
        topology = self.topology
        core = self.core << core_shift(topology) | self.thread
        number = self.socket << package_shift(topology) | self.die << die_shift(topology) | core
        if number > MAX_APIC_ID:
            raise ConfigError(f"topology: {topology} needs the id {number:#x}, which is not one of an APIC; have fewer")
        return number

    @property
    def core_in_package(self) -> int:
        """The core's number in its package, all dies counted."""
        return self.die * self.topology.cores + self.core

    @property
    def node(self) -> int:
        """The die's number in the machine."""
        return self.socket * self.topology.dies + self.die


def apic_id(topology: Topology, vcpu: int) -> int:
    """The local APIC id of vCPU number `vcpu`; ConfigError when the topology has no such vCPU, or no id."""
    return Place.of(topology, vcpu).apic_id


def apic_ids(topology: Topology) -> tuple[int, ...]:
    """The local APIC ids of all vCPUs, in their order."""
    return tuple(apic_id(topology, vcpu) for vcpu in range(topology.vcpus))


def last_apic_id(topology: Topology) -> int:
    """The highest of the local APIC ids: ids rise with the numbers of vCPUs."""
    return apic_id(topology, topology.vcpus - 1)


def needs_x2apic(topology: Topology) -> bool:
    """Whether some id has more than the eight bits of an APIC that is not in x2APIC mode."""
    return last_apic_id(topology) > MAX_XAPIC_ID


def core_shift(topology: Topology) -> int:
    """How many bits of an APIC id tell the threads of a core apart."""
    return (topology.threads - 1).bit_length()


def die_shift(topology: Topology) -> int:
    """How many bits of an APIC id tell the processors of a die apart: above them is the die."""
    return core_shift(topology) + (topology.cores - 1).bit_length()


def package_shift(topology: Topology) -> int:
    """How many bits of an APIC id tell the processors of a package apart: above them is the package."""
    return die_shift(topology) + (topology.dies - 1).bit_length()
