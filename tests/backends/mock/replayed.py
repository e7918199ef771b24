"""What tests of replays share: recorders around real hypervisors, and traces."""

import os

import attrs
import pytest
from recorded_guests import (
    ALL_SIZES,
    kernel,
    run_machine,
)

import anyvisor
from anyvisor.errors import HypervisorUnavailable
from anyvisor.recording.recorder import Recorder
from anyvisor.recording.trace import Call, Trace
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import Regs

SECONDS = 20


@pytest.fixture
def opened():
    """Opens a real hypervisor by name; without KVM a skip that says so, in CI a failure."""

    def opened(name):
        try:
            return anyvisor.open_hypervisor(name)
        except HypervisorUnavailable as error:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must have {name}: {error}")
            pytest.skip(f"to run this: {error}")

    return opened


@pytest.fixture(params=["kvm", "unicorn"])
def recorder(request, opened, tmp_path):
    """A recorder around a real hypervisor, that writes to `it.trace`."""
    with Recorder(opened(request.param), tmp_path / "it.trace") as recorder:
        yield recorder


@pytest.fixture
def kvm_recorder(opened, tmp_path):
    with Recorder(opened("kvm"), tmp_path / "it.trace") as recorder:
        yield recorder


@pytest.fixture
def recorded(recorder, tmp_path):
    """A run of the guest that makes accesses of all sizes: what its device saw, and the trace, from its file."""
    device, _ = run_machine(recorder, kernel(tmp_path, ALL_SIZES))
    recorder.close()
    return device, Trace.load(tmp_path / "it.trace")


def without(trace, number):
    """The trace without one event."""
    return attrs.evolve(trace, events=trace.events[:number] + trace.events[number + 1 :])


def two_vcpus():
    return Trace(
        FACTS,
        (
            Call(0, "create_vm", (False,), 1),
            Call(1, "create_vcpu", (0, None), 2),
            Call(1, "create_vcpu", (1, None), 3),
            Call(2, "put", (Regs(),)),
            Call(3, "put", (Regs(rip=1),)),
        ),
    )
