"""One thing that two boot plans do not have in common, and what the parts of `plan_diff` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from anyvisor.architectures import part
from anyvisor.difference.rows import Row, numbered
from anyvisor.errors import Unsupported
from anyvisor.memory import Region

if TYPE_CHECKING:
    from anyvisor.plan import BootPlan

T = TypeVar("T")

STEPS, MEMORY, VCPUS, VM, DEVICES, MACHINE = "Steps", "Memory", "vCPUs", "VM states", "Devices", "Machine"
PARTS = (STEPS, MEMORY, VCPUS, VM, DEVICES, MACHINE)
"""The parts of a plan, in the order in which they are told."""
ORDER = "in another order"


@attrs.frozen
class PlanChange:
    """One difference: in which `part` of the plan, of which `subject`, and what about it, in `words`.

    `before` and `after` are the two values as text, empty where words say all of it; `details` a line each.

    >>> str(PlanChange("Memory", "command line", "moved", "0x20000", "0x40000"))
    'command line: moved 0x20000 -> 0x40000'
    """

    part: str
    subject: str
    words: str
    before: str = ""
    after: str = ""
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        values = f"{self.before} -> {self.after}" if self.before or self.after else ""
        text = " ".join(filter(None, [self.words, values]))
        joint = " " if self.part == VCPUS else ": "
        return f"{self.subject}{joint}{text}"


@attrs.frozen
class Table:
    """A table in a plan's memory, decoded by its architecture: where it lies, and its entries as rows by name."""

    title: str
    regions: tuple[Region, ...]
    rows: dict[str, Row] = attrs.field(factory=dict)

    def lies_in(self, region: Region) -> bool:
        """Whether a part of it does."""
        return any(each.overlaps(region) for each in self.regions)


def paired(
    before: Iterable[T], after: Iterable[T], name: Callable[[T], str]
) -> Iterator[tuple[str, T | None, T | None]]:
    """What has the same name in both, in the order of `before`, what is new last; None where it is in one only."""
    old, new = list(before), list(after)
    first = dict(zip(numbered(map(name, old)), old, strict=True))
    second = dict(zip(numbered(map(name, new)), new, strict=True))
    for key in [*first, *(each for each in second if each not in first)]:
        yield key, first.get(key), second.get(key)


def decoder(before: BootPlan, after: BootPlan, name: str) -> Callable[..., Any] | None:
    """A function of the module `differences` of the plans' architecture; None when they have none in common."""
    if before.architecture != after.architecture:
        return None
    try:
        module: ModuleType = part(before.architecture, "differences")
    except (Unsupported, ImportError):
        return None
    found: Callable[..., Any] | None = getattr(module, name, None)
    return found


def joined(changes: Iterable[PlanChange]) -> list[PlanChange]:
    """Changes to print: what is said alike of several things of one subject is said once.

    `Sregs.ds.limit` and `Sregs.es.limit` with the same values are `Sregs.ds|es.limit`; `Cpuid -AVX` and `Cpuid -FMA`
    are `Cpuid -AVX -FMA`.
    """
    alike: dict[object, list[PlanChange]] = {}
    for change in changes:
        alike.setdefault(_said(change), []).append(change)
    return [_together(group) for group in alike.values()]


def _said(change: PlanChange) -> object:
    """What is equal for changes that can be told together."""
    if names := _of_a_part(change):
        return attrs.evolve(change, words=f"{names[0]}.*.{names[2]}")
    if words := _of_a_feature(change):
        return attrs.evolve(change, words=f"{words[0]} *")
    return change


def _together(changes: list[PlanChange]) -> PlanChange:
    first = changes[0]
    if names := _of_a_part(first):
        middle = "|".join(change.words.split(".")[1] for change in changes)
        return attrs.evolve(first, words=f"{names[0]}.{middle}.{names[2]}")
    if words := _of_a_feature(first):
        return attrs.evolve(first, words=" ".join([words[0], *(change.words.split()[1] for change in changes)]))
    return first


def _of_a_part(change: PlanChange) -> list[str]:
    """The names in `Sregs.ds.limit`; empty when it is nothing like that."""
    names = change.words.split(".")
    return names if change.part == VCPUS and len(names) == 3 else []


def _of_a_feature(change: PlanChange) -> list[str]:
    """The words of `Cpuid -AVX`; empty when it is nothing like that."""
    words = change.words.split()
    return words if change.part == VCPUS and len(words) == 2 and words[1].startswith(("+", "-")) else []
