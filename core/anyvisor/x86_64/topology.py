"""Local APIC ids: how a vCPU's place in the machine becomes a number.

Some facts about APIC ids. An APIC id is three bit-fields: the thread in its core (lowest), the core in its
package, the package. Each field is as wide as its counts need, so with three cores to a package one id of
four stays unused: sockets=2, cores=3 gives 0, 1, 2, 4, 5, 6. Guests take ids apart by shifting, as CPUID leaf
0xB tells them, so CPUID, the MP table, ACPI and the local APICs themselves must all use these very numbers.
SDM Vol. 3, 9.9.1 and 9.9.3; APM Vol. 3, appendix E.5.

Without x2APIC mode an id has eight bits, and 255 means every processor.
"""

from __future__ import annotations

import attrs

from anyvisor.config import Topology
from anyvisor.errors import ConfigError

MAX_APIC_ID = 254


@attrs.frozen
class Place:
    """Where one vCPU is: its package, its core in the package, its thread in the core, all from 0."""

    topology: Topology
    socket: int
    core: int
    thread: int

    @classmethod
    def of(cls, topology: Topology, vcpu: int) -> Place:
        """The place of vCPU number `vcpu`; threads count first, then cores. ConfigError if it has none."""
        if not 0 <= vcpu < topology.vcpus:
            raise ConfigError(f"vCPU {vcpu}: the topology has vCPUs 0 to {topology.vcpus - 1}; give it more cores")
        core, thread = divmod(vcpu, topology.threads)
        socket, core = divmod(core, topology.cores)
        return cls(topology, socket, core, thread)

    @property
    def apic_id(self) -> int:
        """The APIC id; ConfigError when it needs more than eight bits."""
        package_bits = thread_bits(self.topology) + core_bits(self.topology)
        number = self.socket << package_bits | self.core << thread_bits(self.topology) | self.thread
        if number > MAX_APIC_ID:
            raise ConfigError(
                f"topology: {self.topology} needs the APIC id {number}, and {MAX_APIC_ID} is the highest; "
                "make cores and threads powers of two, or have fewer sockets"
            )
        return number


def apic_id(topology: Topology, vcpu: int) -> int:
    """The local APIC id of vCPU number `vcpu`; ConfigError when the topology has no such vCPU, or no id."""
    return Place.of(topology, vcpu).apic_id


def apic_ids(topology: Topology) -> tuple[int, ...]:
    """The local APIC ids of all vCPUs, in their order."""
    return tuple(apic_id(topology, vcpu) for vcpu in range(topology.vcpus))


def thread_bits(topology: Topology) -> int:
    """How many bits of an APIC id tell the threads of a core apart."""
    return (topology.threads - 1).bit_length()


def core_bits(topology: Topology) -> int:
    """How many bits of an APIC id tell the cores of a package apart."""
    return (topology.cores - 1).bit_length()
