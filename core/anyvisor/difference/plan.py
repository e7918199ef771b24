"""What two boot plans do not have in common, in words: `print(plan.diff(other))`.

It tells of the steps, then of memory piece by piece, then of each vCPU's states field by field, of the VM and its
devices. What bytes and states mean, the plan's architecture says (its module `differences`); what it does not know is
told as plain fields and bytes. Two plans that differ never have an empty difference.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from anyvisor.codec import to_data
from anyvisor.difference.change import DEVICES, MACHINE, MEMORY, PARTS, STEPS, VM, PlanChange, joined, paired
from anyvisor.difference.memory import blob_changes
from anyvisor.difference.rows import row_changes, word
from anyvisor.difference.states import state_changes, state_name, vcpu_changes
from anyvisor.memory import Region, format_size
from anyvisor.pieces import DeviceSpec, Step
from anyvisor.plan import BootPlan
from anyvisor.states import VmState

MOST_DETAILS = 16
"""Printed of one change; the rest is counted."""
WIDTH = 120


@attrs.frozen
class PlanDiff:
    """What another plan has differently, as `PlanChange`s; falsy when it has nothing differently. Print it."""

    changes: tuple[PlanChange, ...] = ()

    @property
    def hooks(self) -> frozenset[str]:
        """The boot steps that another plugin provided, adjusted or dropped."""
        return frozenset(change.subject for change in self.of(STEPS))

    def of(self, part: str) -> tuple[PlanChange, ...]:
        """The changes of one part of the plan, one of `PARTS`: `difference.of("Memory")`."""
        return tuple(change for change in self.changes if change.part == part)

    def about(self, subject: str) -> tuple[PlanChange, ...]:
        """The changes of one thing: a hook, a piece of memory, a device, `vCPU 0`, `every vCPU`."""
        return tuple(change for change in self.changes if change.subject == subject)

    def to_data(self) -> list[dict[str, Any]]:
        """The changes as plain values, for JSON."""
        data: list[dict[str, Any]] = to_data(list(self.changes))
        return data

    def __iter__(self) -> Iterator[PlanChange]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __contains__(self, line: object) -> bool:
        """Whether a change reads so, alone or as it is printed, or has that among its details."""
        return any(line in (change, str(change), *change.details) for change in (*self.changes, *joined(self.changes)))

    def __str__(self) -> str:
        lines: list[str] = []
        for part in PARTS:
            changes = joined(self.of(part))
            lines += [part] if changes else []
            for change in changes:
                shown = change.details[:MOST_DETAILS]
                lines += textwrap.wrap(f"  {change}", WIDTH, subsequent_indent="      ", break_on_hyphens=False)
                lines += [f"    {line}" for line in shown]
                if hidden := len(change.details) - len(shown):
                    lines.append(f"    ... and {hidden} more")
        return "\n".join(lines) or "no difference"


def plan_diff(before: BootPlan, after: BootPlan) -> PlanDiff:
    """What `after` has differently; see `BootPlan.diff`."""
    parts: tuple[Callable[[BootPlan, BootPlan], Iterable[PlanChange]], ...] = (
        step_changes,
        _memory,
        vcpu_changes,
        _vm_states,
        _devices,
        _machine,
    )
    changes = tuple(change for part in parts for change in part(before, after))
    if not changes and before != after:
        changes = (PlanChange(MACHINE, "the plans", "the same things, in another order"),)
    return PlanDiff(changes)


# -- steps ---------------------------------------------------------------------------------------------------


def step_changes(before: BootPlan, after: BootPlan) -> Iterator[PlanChange]:
    """The boot steps that another plugin provided, adjusted or dropped."""
    for hook, old, new in paired(before.steps, after.steps, lambda step: step.hook):
        yield from _step(hook, old, new)


def _step(hook: str, old: Step | None, new: Step | None) -> Iterator[PlanChange]:
    if new is None or (new.dropped and not (old and old.dropped)):
        by = f" by {', '.join(new.adjusted_by)}" if new else ""
        yield PlanChange(STEPS, hook, f"dropped{by}")
    elif old is None or (old.dropped and not new.dropped):
        yield PlanChange(STEPS, hook, f"taken, provided by {_by(new.provided_by, new.adjusted_by)}")
    else:
        if old.provided_by != new.provided_by:
            yield PlanChange(STEPS, hook, "provided by", old.provided_by or "nobody", new.provided_by or "nobody")
        if old.adjusted_by != new.adjusted_by:
            adjusters = [", ".join(each.adjusted_by) or "nobody" for each in (old, new)]
            yield PlanChange(STEPS, hook, "adjusted by", adjusters[0], adjusters[1])


def _by(provider: str, adjusters: tuple[str, ...]) -> str:
    return (provider or "nobody") + (f", adjusted by {', '.join(adjusters)}" if adjusters else "")


# -- memory --------------------------------------------------------------------------------------------------


def _memory(before: BootPlan, after: BootPlan) -> Iterator[PlanChange]:
    for what, old_regions, new_regions in (
        ("RAM", before.ram, after.ram),
        ("kept free", before.reserved, after.reserved),
    ):
        for name, old, new in paired(old_regions, new_regions, lambda region: region.name or "RAM"):
            if old != new:
                yield PlanChange(MEMORY, name if what == "RAM" else f"{name} ({what})", "", _range(old), _range(new))
    yield from blob_changes(before, after, MEMORY, credit=before.steps == after.steps)


def _range(region: Region | None) -> str:
    if region is None:
        return "none"
    return f"{attrs.evolve(region, name='')} ({format_size(region.size_bytes)})"


# -- the machine ---------------------------------------------------------------------------------------------


def _vm_states(before: BootPlan, after: BootPlan) -> Iterator[PlanChange]:
    for when in ("before", "after"):
        states: list[tuple[VmState, ...]] = [getattr(plan, f"vm_states_{when}") for plan in (before, after)]
        for name, old, new in paired(states[0], states[1], state_name):
            yield from state_changes(VM, f"{when} the vCPUs", name, old, new, None)


def _devices(before: BootPlan, after: BootPlan) -> Iterator[PlanChange]:
    for name, old, new in paired(before.devices, after.devices, lambda device: device.name):
        if old is None or new is None:
            device = old or new
            assert device is not None
            yield PlanChange(DEVICES, name, f"{'added' if old is None else 'removed'}: {_device(device)}")
            continue
        for change in row_changes(_device_rows(old), _device_rows(new)):
            yield PlanChange(DEVICES, name, change.name, change.before or "none", change.after or "none")


def _device_rows(device: DeviceSpec) -> dict[str, str]:
    rows = {"kind": device.kind}
    rows |= {what: ", ".join(map(str, regions)) for what, regions in _places(device).items() if regions}
    rows |= {} if device.gsi is None else {"interrupt": str(device.gsi)}
    return rows | {f"setting {name}": word(value) for name, value in device.settings.items()}


def _places(device: DeviceSpec) -> dict[str, tuple[Region, ...]]:
    return {"ports": device.ports, "MMIO": device.mmio}


def _device(device: DeviceSpec) -> str:
    rows = {name: text for name, text in _device_rows(device).items() if name != "kind"}
    return ", ".join([device.kind, *(f"{name} {text}" for name, text in rows.items())])


def _machine(before: BootPlan, after: BootPlan) -> Iterator[PlanChange]:
    for name in ("architecture", "deterministic", "format"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield PlanChange(MACHINE, name, "", word(old), word(new))
