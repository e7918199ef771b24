"""Launching a boot plan on the mock backend, which has a hypervisor's rules and no processor."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from anyvisor.errors import AnyvisorError, PluginError
from anyvisor.facts import HostFacts
from anyvisor.hypervisor import Hypervisor
from anyvisor.launch import launch
from anyvisor.plan import BootPlan
from anyvisor.plugins import Plugins, import_target
from anyvisor.testing.step_trial import fail

MOCK = "mock"
"""The backend's name."""
HOST_NAMES, HOST_FACTS = "anyvisor_mock.host_facts:host_names", "anyvisor_mock.host_facts:host_facts"
DESCRIPTORS = Path("/dev/fd")


def mock_hosts() -> Mapping[str, HostFacts]:
    """The facts of the hosts that the mock backend knows, by name; none where it is not installed."""
    try:
        names, facts = (import_target(each, "hosts to plan for") for each in (HOST_NAMES, HOST_FACTS))
    except PluginError:
        return {}
    return {name: facts(name) for name in names()}


def launch_and_close(plan: BootPlan, hypervisor: Hypervisor, plugins: Plugins) -> None:
    """Launch the plan and close the machine; fails the test when it is refused, or when something stays open."""
    before = _open_things(hypervisor)
    refused = None
    try:
        launch(plan, hypervisor, plugins, overcommit=True).close()
    except AnyvisorError as error:
        refused = f"{type(error).__name__}: {error}"
    if refused:
        fail(f"the {hypervisor.facts.backend} backend refuses the plan: {refused}")
    if left := _open_things(hypervisor) - before:
        fail(f"closing the machine left open: {', '.join(sorted(left))}")


def _open_things(hypervisor: Hypervisor) -> set[str]:
    """The threads and file descriptors of this process, and what the hypervisor says is open, in words."""
    found = {f"thread {each.name}" for each in threading.enumerate()} | {*getattr(hypervisor, "open_things", ())}
    if not DESCRIPTORS.is_dir():
        return found
    return found | {
        f"file descriptor {number}" for number in (int(each.name) for each in DESCRIPTORS.iterdir()) if _is_open(number)
    }


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:  # the one by which the directory was listed
        return False
    return True
