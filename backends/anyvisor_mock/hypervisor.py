"""The mock as a hypervisor: any host's facts, a script to play, faults to suffer, and a record of every call."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import attrs

from anyvisor.closing import Closing
from anyvisor.facts import Capability, HostFacts
from anyvisor_mock import rules
from anyvisor_mock.calls import Calls
from anyvisor_mock.desk import Desk, public
from anyvisor_mock.faults import Fault, Saboteur
from anyvisor_mock.host_facts import host_facts
from anyvisor_mock.player import Guests
from anyvisor_mock.vm import MockVm

HOST = "amd-genoa"
"""Which of the hosts that are kept as data the mock is, if it is not told otherwise."""
NOT_THE_MOCK = {Capability.NATIVE, Capability.FULL_SYSTEM, Capability.FULL_PROCESSOR}


@functools.cache
def default_facts() -> HostFacts:
    """A modern host of KVM's, but for what takes a processor: the mock executes nothing."""
    facts = host_facts(HOST)
    note = f"executes nothing: it plays scripts, with KVM's rules and the CPUID table of {HOST}"
    return attrs.evolve(facts, backend="mock", modes=(), capabilities=facts.capabilities - NOT_THE_MOCK, notes=(note,))


def open_mock() -> MockHypervisor:
    """The mock with its default facts and no script, as the plugin registry opens it."""
    return MockHypervisor()


class MockHypervisor(Closing):
    """A hypervisor without a processor; see `anyvisor.hypervisor.Hypervisor`. A context manager.

    `facts` are those of the host that it pretends to be: what they lack it has not. `script` is what the guests of
    every VM do (see `anyvisor_mock.player`), `faults` what goes wrong.
    """

    vm_type = MockVm
    """What `create_vm` makes; for subclasses."""

    name = "hypervisor"

    def __init__(self, facts: HostFacts | None = None, script: Guests | None = None, faults: Iterable[Fault] = ()):
        self.facts = facts or default_facts()
        self.script = script
        self.desk = Desk(Saboteur(faults))
        self.vms: list[Any] = []
        """Every VM that was made, closed ones too."""
        self._closed = False

    @property
    def calls(self) -> Calls:
        """Every call that was made; see `anyvisor_mock.calls`."""
        return self.desk.calls

    @public
    def create_vm(self, *, deterministic: bool = False) -> MockVm:
        """A new, empty VM; Unsupported for a deterministic one unless the facts have that.

        Unsupported, too, on a host of an architecture whose rules the mock does not know.
        """
        if self._closed:
            raise rules.CLOSED.broken("create_vm", "the hypervisor is closed")
        if deterministic and not self.facts.has(Capability.DETERMINISTIC):
            raise rules.DETERMINISTIC.broken("create_vm", f"the {self.facts.backend} host knows only its own time")
        made = self.vm_type(len(self.vms), self.desk, self.facts, self.script, deterministic=deterministic)
        self.vms.append(made)
        return made

    @public
    def close(self) -> None:
        """Close every VM that is still open."""
        for vm in reversed(self.vms):
            vm.give_back()
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    @property
    def open_things(self) -> list[str]:
        """What has been made and not been closed, by name: VMs and vCPUs."""
        made = [each for vm in self.vms for each in (vm, *vm.vcpus)]
        return [each.name for each in made if not each.closed]
