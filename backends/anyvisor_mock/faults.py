"""What can go wrong on purpose: calls that fail, runs that are interrupted again and again, vCPUs that die.

MockHypervisor(faults=[FailCall("put Sregs", nth=2, errno=errno.EIO)])
MockHypervisor(faults=[FailCall(nth=17)])           # the seventeenth call of all
MockHypervisor(faults=[InterruptStorm(runs=1000), VcpuDies(vcpu=1, after=3, exit=Shutdown())])
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Iterator

import attrs

from anyvisor.errors import HypervisorError
from anyvisor.exits import Exit, Shutdown
from anyvisor_mock.calls import Call


@attrs.frozen
class Fault:
    """Something that goes wrong."""


@attrs.frozen
class FailCall(Fault):
    """The `nth` call of a kind fails: HypervisorError of that number, naming the call.

    `kind` is a method (`put`, `create_vcpu`) or a method and a state type (`put Sregs`); any call if it is left out.
    A call that fails does nothing, but for `close`: as with close(2), what it was to close is closed all the same.
    """

    kind: str = ""
    nth: int = 1
    errno: int = errno.EIO


@attrs.frozen
class InterruptStorm(Fault):
    """The first `runs` runs of a vCPU come back with Kicked, each after one act, as if signals rained on its thread."""

    vcpu: int = 0
    runs: int = 100


@attrs.frozen
class VcpuDies(Fault):
    """After so many acts the vCPU has died of that: it is what every `run` returns from then on."""

    vcpu: int = 0
    after: int = 0
    exit: Exit = attrs.field(factory=Shutdown)


class Saboteur:
    """Counts the calls, and fails those that it was told to."""

    def __init__(self, faults: Iterable[Fault] = ()):
        self.faults = tuple(faults)
        self._counted = [(each, itertools.count(1)) for each in self.faults if isinstance(each, FailCall)]

    def failure_of(self, call: Call) -> HypervisorError | None:
        """The error that this call is to fail with. Without a lock, as `anyvisor_mock.calls` is."""
        failures = [self._count(fault, numbers, call) for fault, numbers in self._counted]
        return next((each for each in failures if each is not None), None)

    @staticmethod
    def _count(fault: FailCall, numbers: Iterator[int], call: Call) -> HypervisorError | None:
        if (fault.kind and not call.is_a(fault.kind)) or next(numbers) != fault.nth:
            return None
        which = f"number {fault.nth} of {fault.kind or 'all calls'}"
        return HypervisorError(call.kind, fault.errno, f"{call.subject}: told to fail, {which}")

    def storm(self, vcpu: int) -> int:
        """How many of the vCPU's runs are cut short."""
        return sum(each.runs for each in self.faults if isinstance(each, InterruptStorm) and each.vcpu == vcpu)

    def death(self, vcpu: int) -> VcpuDies | None:
        """Of what the vCPU dies, and when."""
        return next((each for each in self.faults if isinstance(each, VcpuDies) and each.vcpu == vcpu), None)
