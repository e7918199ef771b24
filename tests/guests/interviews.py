"""Linux on the emulated processor, asked all that tests want to know of it: each machine boots once for them all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
from conversation import ask, greet, part
from debian import DebianKernel

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.identity import Identity

WHO = Identity(
    manufacturer="ACME Inc.", product="Anvil 9", version="2nd", serial="S-7", sku="SKU-1", family="Irons",
    uuid="8c0b1d2e-3f40-4a5b-9c6d-7e8f90a1b2c3",
)  # fmt: skip
NAMELESS = Identity(product="Nameless")
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
"""glibc's dynamic loader: a program that needs nothing else, and says which levels of x86-64 it would search for."""
MACHINES: Mapping[str, tuple[str, dict[str, Any]]] = MappingProxyType(
    {
        "cloud vmlinux": ("cloud", {"unpack": True, "identity": WHO, "cpu": "x86-64-v2"}),
        "cloud bzImage": ("cloud", {"unpack": False, "identity": NAMELESS}),
        "generic vmlinux": ("generic", {"unpack": True, "identity": WHO}),
        "no tables": ("cloud", {"unpack": True, "tables": "none", "cpu": "minimal"}),
    }
)
"""A kernel, and what is special about the machine."""
TABLES = "/sys/firmware/dmi/tables"
SHOW_IDENTITY = "cd /sys/class/dmi/id; for name in *; do [ -f $name ] && echo $name=$(cat $name); done; cd /"


@attrs.frozen
class Interview:
    """What a guest said: its kernel's log, its identity and the bytes of its tables in sysfs, and its processor."""

    log: str
    identity: dict[str, str]
    structures: str
    entry_point: str
    processor: dict[str, str]
    levels: str


def interview(name: str, kernel: DebianKernel, initrd: Path) -> Interview:
    """Boot that machine to userspace, ask it everything, and reboot, which ends it."""
    config = MachineConfig(kernel=kernel.vmlinuz, initrd=initrd, memory="256M", **MACHINES[name][1])
    config = config.replace(command_line=f"{config.command_line} quiet 8250.nr_uarts=1")
    with anyvisor.boot(config, backend="unicorn") as machine:
        greet(machine, kernel.version)
        found = Interview(
            ask(machine, "dmesg -r"),
            pairs(ask(machine, SHOW_IDENTITY), "="),
            ask(machine, f"od -An -v -tx1 {TABLES}/DMI"),
            ask(machine, f"od -An -v -tx1 {TABLES}/smbios_entry_point"),
            pairs(ask(machine, "cat /proc/cpuinfo"), ":"),
            ask(machine, "/loader --help"),
        )
        part(machine)
    return found


def pairs(text: str, between: str) -> dict[str, str]:
    """Lines of a name and a value."""
    lines = (line.split(between, 1) for line in text.splitlines() if between in line)
    return {name.strip(): value.strip() for name, value in lines}
