"""The mock backend: a hypervisor without a processor, with KVM's real rules, for tests where there is no hypervisor.

    from anyvisor_mock import MockHypervisor

This module only says where the backend is; the rest is imported when it is opened or asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor.hookspecs import hookimpl

if TYPE_CHECKING:
    from anyvisor_mock.calls import Call as Call
    from anyvisor_mock.faults import FailCall as FailCall
    from anyvisor_mock.faults import InterruptStorm as InterruptStorm
    from anyvisor_mock.faults import VcpuDies as VcpuDies
    from anyvisor_mock.hypervisor import MockHypervisor as MockHypervisor

HOMES = {
    "MockHypervisor": "hypervisor",
    "FailCall": "faults",
    "InterruptStorm": "faults",
    "VcpuDies": "faults",
    "Call": "calls",
}
"""In which module of this package a name is found that can be imported from here."""


@hookimpl
def anyvisor_hypervisors() -> dict[str, str]:
    """`mock`: executes nothing, refuses what KVM refuses, and does what it is told."""
    return {"mock": "anyvisor_mock.hypervisor:open_mock"}


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - only for who asks

    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
