"""Boot plans of a few pieces, for the tests of what two plans do not have in common."""

import attrs

from anyvisor import BootPlan
from anyvisor.memory import MIB, Region
from anyvisor.plan import VcpuPlan
from anyvisor.states import VcpuState

RAM = Region(0, 64 * MIB, "RAM")


def plan(*blobs, **more):
    return BootPlan(**{"architecture": "x86_64", "ram": (RAM,), "blobs": blobs, **more})


def vcpus(*states_of_each):
    return plan(vcpus=tuple(VcpuPlan(index, tuple(states)) for index, states in enumerate(states_of_each)))


@attrs.frozen
class Strange(VcpuState):
    """A state of a plugin, with fields of kinds that core has never seen, and no portable name."""

    thing: object = None
    more: tuple[object, ...] = ()
