"""What a planted fault is, and the hosts that it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from anyvisor.machine import Machine
from faults.careful import IS_WELL, LOADED, RUNS
from faults.planting import Plant, both, poke

UNICORN, KVM, SVM, INTEL, AMD = "Unicorn", "software KVM", "kvm-amd", "mock Intel", "mock AMD"
HOSTS = (UNICORN, KVM, SVM, INTEL, AMD)
PROCESSORS = (UNICORN, KVM, SVM)
"""Those that execute instructions."""


@attrs.frozen(eq=False)
class Fault:
    """A fault. `words` say what is wrong, `plant` makes it so in a plan, `tamper` in a launched machine.

    `causes` are the names that are right, the first of them the best; `hosts` where it is tried; `runs` says why it
    does not show on a host, `misnamed` what is said there instead, and why. `checked` is the name of the check that
    finds it in the plan, empty where no look at a plan could tell. `end` is what a guest prints that comes to its end.
    """

    name: str
    words: str
    plant: Plant = attrs.field(repr=False)
    causes: tuple[str, ...]
    hosts: tuple[str, ...] = PROCESSORS
    runs: Mapping[str, str] = attrs.field(factory=dict)
    misnamed: Mapping[str, tuple[str, str]] = attrs.field(factory=dict)
    checked: str = ""
    tamper: Callable[[Machine], None] | None = attrs.field(default=None, repr=False)
    end: bytes = IS_WELL

    def expected(self, host: str) -> tuple[str, ...]:
        """The names of which one must come first there."""
        if host in self.runs:
            return (RUNS,)
        return (self.misnamed[host][0],) if host in self.misnamed else self.causes


def state(name: str, words: str, plant: Plant, *causes: str, **more: Any) -> Fault:
    """A fault of registers, which is tried everywhere, and which the check of the same name finds in the plan."""
    return Fault(name, words, plant, causes, **{"hosts": HOSTS, "checked": causes[0], **more})


def place(name: str, words: str, plant: Plant, *causes: str, **more: Any) -> Fault:
    """A fault of where things lie, which a processor must execute to meet."""
    return Fault(name, words, plant, causes, **{"checked": causes[0], **more})


def code(name: str, words: str, instructions: bytes, *causes: str, plant: Plant | None = None, **more: Any) -> Fault:
    """Code in place of the kernel's."""
    placed = poke(LOADED, instructions)
    return Fault(name, words, both(placed, plant) if plant else placed, causes, **{"end": b"", **more})
