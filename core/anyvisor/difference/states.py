"""What two boot plans have differently in the states of vCPUs and VM, field by field or in the architecture's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from anyvisor.difference.change import ORDER, VCPUS, PlanChange, decoder, paired
from anyvisor.difference.rows import RowChange, row_changes, rows_of, rows_of_fields
from anyvisor.pieces import VcpuPlan
from anyvisor.states import Change, VcpuState, VmState

if TYPE_CHECKING:
    from anyvisor.plan import BootPlan

UNSET = "(as it was)"
"""In place of a value that one of two plans does not set."""


def vcpu_changes(before: BootPlan, after: BootPlan) -> Iterator[PlanChange]:
    """Changes of vCPUs; what is the same for several is told once."""
    found: dict[PlanChange, list[int]] = {}
    both = range(min(len(before.vcpus), len(after.vcpus)))
    decode = decoder(before, after, "state_changes")
    for index in both:
        for change in _vcpu(before.vcpus[index], after.vcpus[index], decode):
            found.setdefault(change, []).append(index)
    for change, indices in found.items():
        yield attrs.evolve(change, subject=_whose(indices, len(both)))
    for each in before.vcpus[len(both) :]:
        yield PlanChange(VCPUS, f"vCPU {each.index}", "removed")
    for each in after.vcpus[len(both) :]:
        yield PlanChange(VCPUS, f"vCPU {each.index}", "added")


def _whose(indices: list[int], count: int) -> str:
    if len(indices) == count > 1:
        return "every vCPU"
    if len(indices) > 2 and indices == list(range(indices[0], indices[-1] + 1)):
        return f"vCPUs {indices[0]}-{indices[-1]}"
    return f"vCPU{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices))}"


def _vcpu(old: VcpuPlan, new: VcpuPlan, decode: Callable[..., Any] | None) -> Iterator[PlanChange]:
    if old.hardware_id != new.hardware_id:
        yield PlanChange(VCPUS, "", "hardware id", str(old.hardware_id), str(new.hardware_id))
    for name, before, after in paired(old.states, new.states, state_name):
        yield from state_changes(VCPUS, "", name, before, after, decode)
    shared = [list(map(state_name, each.states)) for each in (old, new)]
    if shared[0] != shared[1] and sorted(shared[0]) == sorted(shared[1]):
        yield PlanChange(VCPUS, "", f"states {ORDER}", ", ".join(shared[0]), ", ".join(shared[1]))


def state_name(state: VcpuState | VmState | Change) -> str:
    """The name of a state's type: `Sregs`."""
    return (state.kind if isinstance(state, Change) else type(state)).__name__


def state_changes(
    part: str, subject: str, name: str, before: Any, after: Any, decode: Callable[..., Any] | None
) -> Iterator[PlanChange]:
    """What is different about one state, or about a change to one."""
    if before == after:
        return
    if before is None or after is None:
        yield PlanChange(part, subject, f"{name} {'added' if before is None else 'removed'}")
        return
    if isinstance(before, Change) != isinstance(after, Change):
        words = {True: "some fields changed", False: "given whole"}
        yield PlanChange(part, subject, name, words[isinstance(before, Change)], words[isinstance(after, Change)])
    decoded = decode(before, after) if decode else None
    changes = row_changes(_fields(before), _fields(after)) if decoded is None else decoded
    found = list(changes)
    for change in found:
        if isinstance(change, RowChange):
            texts = [UNSET if text is None else text for text in (change.before, change.after)]
            yield PlanChange(part, subject, f"{name}.{change.name}", texts[0], texts[1])
        else:
            yield PlanChange(part, subject, f"{name} {change}")
    if not found:
        yield PlanChange(part, subject, f"{name} {ORDER}")


def _fields(state: Any) -> Mapping[str, Any]:
    return rows_of_fields(state.fields) if isinstance(state, Change) else rows_of(state)
