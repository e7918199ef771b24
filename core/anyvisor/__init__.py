"""anyvisor straps a virtual machine up to its first instruction, on any hypervisor.

    with anyvisor.boot(MachineConfig(kernel="vmlinuz", initrd="initrd.img", memory="512M")) as machine:
        machine.console.expect("login:", timeout=60)

The four things it is made of: `MachineConfig` (what you want), `assemble` (a `BootPlan` from it: a value that can be
looked at and tested), `launch` (a `Machine` from the plan), and the hooks that replace or adjust a boot step.
"""

from anyvisor.assemble import assemble
from anyvisor.backends import generic_facts, hypervisors, open_hypervisor
from anyvisor.common import common_facts
from anyvisor.config import MachineConfig, Topology
from anyvisor.errors import (
    AnyvisorError,
    ConfigError,
    ExpectError,
    GuestError,
    GuestMemoryError,
    HypervisorError,
    HypervisorUnavailable,
    KernelImageError,
    PlanError,
    PluginError,
    ReplayError,
    SnapshotError,
    Unsupported,
    UnsupportedConfig,
)
from anyvisor.facts import Capability, HostFacts
from anyvisor.hookspecs import hookimpl
from anyvisor.launch import boot, launch
from anyvisor.machine import Machine
from anyvisor.outcome import Outcome
from anyvisor.plan import Blob, BootPlan, DeviceSpec, FileSlice

__version__ = "0.1.0"

__all__ = [
    "AnyvisorError",
    "Blob",
    "BootPlan",
    "Capability",
    "ConfigError",
    "DeviceSpec",
    "ExpectError",
    "FileSlice",
    "GuestError",
    "GuestMemoryError",
    "HostFacts",
    "HypervisorError",
    "HypervisorUnavailable",
    "KernelImageError",
    "Machine",
    "MachineConfig",
    "Outcome",
    "PlanError",
    "PluginError",
    "ReplayError",
    "SnapshotError",
    "Topology",
    "Unsupported",
    "UnsupportedConfig",
    "assemble",
    "boot",
    "common_facts",
    "generic_facts",
    "hookimpl",
    "hypervisors",
    "launch",
    "open_hypervisor",
]
