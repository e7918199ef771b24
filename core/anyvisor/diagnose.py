"""Why a vCPU died: the decoded exit and the registers by name, as the message of a `GuestError`."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from anyvisor.bits import Bits
from anyvisor.codec import name_of
from anyvisor.errors import AnyvisorError, GuestError
from anyvisor.exits import Exit
from anyvisor.hypervisor import Vcpu
from anyvisor.states import VcpuState


def death(vcpu: Vcpu, exit_: Exit, register_states: Iterable[type[VcpuState]]) -> GuestError:
    """The error for a vCPU that cannot go on: what happened, and the registers as they are now."""
    lines = [f"vCPU {vcpu.index} died: {exit_.describe()}"]
    for kind in register_states:
        try:
            lines += table(vcpu.get(kind))
        except AnyvisorError as error:
            lines.append(f"  {name_of(kind)} cannot be read: {error}")
    return GuestError("\n".join(lines), exit=exit_, vcpu=vcpu.index)


def device_failure(error: BaseException, vcpu: Vcpu | None = None) -> AnyvisorError:
    """The error for what a device or backend raised; `vcpu` is the one that it was working for."""
    if isinstance(error, AnyvisorError):
        return error
    where = "" if vcpu is None else f"vCPU {vcpu.index}: "
    broken = GuestError(
        f"{where}a device or backend failed: {type(error).__name__}: {error}", vcpu=None if vcpu is None else vcpu.index
    )
    broken.__cause__ = error
    return broken


def table(state: VcpuState) -> list[str]:
    """A state's fields, four to a line; numbers in hex, bit-fields in words, nested values spelled out."""
    cells, lines = [], []
    for each in attrs.fields(type(state)):  # type: ignore[arg-type]
        value = getattr(state, each.name)
        if attrs.has(type(value)):
            lines.append(f"  {each.name:<4} {_nested(value)}")
        elif isinstance(value, Bits):
            lines.append(f"  {each.name:<6} {int(value):#x} {value.words()}")
        else:
            cells.append(f"{each.name:<4} {value:#018x}")
    rows = ["  " + "  ".join(cells[start : start + 4]) for start in range(0, len(cells), 4)]
    return rows + lines


def _nested(value: object) -> str:
    parts = []
    for each in attrs.fields(type(value)):  # type: ignore[arg-type]
        item = getattr(value, each.name)
        if item is True:
            parts.append(each.name)
        elif item is not False:
            parts.append(f"{each.name}={item:#x}")
    return " ".join(parts)
