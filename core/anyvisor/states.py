"""What a state type is: a value that a vCPU or VM can be asked for and given, addressed by its class.

`vcpu.get(Regs)` returns a `Regs`; `vcpu.put(regs)` sets it. Each architecture defines its own types
(`anyvisor.x86_64.state`); here are only the bases that core needs to speak of any of them, and `Change`, a
read-modify-write written down as a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from anyvisor.codec import name_of
from anyvisor.errors import PlanError, Unsupported


class State:
    """The root of all state types."""

    __slots__ = ()


class VcpuState(State):
    """A part of one vCPU: its registers, its CPUID table, its local APIC."""

    __slots__ = ()


class VmState(State):
    """A part of a VM that its vCPUs share: interrupt chips, timers, clocks.

    Putting one creates what is not there yet.
    """

    __slots__ = ()


class Kept(dict[type[State], State]):
    """The states of a vCPU or VM that keeps them as they are, by type; Unsupported for a type that is not there."""

    def __init__(self, states: Iterable[State]):
        super().__init__({type(state): state for state in states})

    def __missing__(self, kind: type[State]) -> State:
        known = ", ".join(each.__name__ for each in self)
        raise Unsupported(f"this backend has no {kind.__name__} here; it has {known}")


@attrs.frozen(init=False)
class Change:
    """Some fields of a vCPU state, to be changed where the rest stays as the hypervisor made it.

    `Change(Lapic, lint0=...)` in a plan means: at launch, get the `Lapic`, evolve it, put it back.
    """

    kind: type[VcpuState]
    fields: dict[str, Any]

    def __init__(self, kind: type[VcpuState], /, **fields: Any):
        known = {each.name for each in attrs.fields(kind)}  # type: ignore[arg-type]
        if unknown := sorted(fields.keys() - known):
            have = ", ".join(sorted(known))
            raise PlanError(f"{kind.__name__} has no field {', '.join(unknown)}; it has {have}")
        for name, value in fields.items():
            _check_field(kind, name, value)
        self.__attrs_init__(kind, fields)  # pyright: ignore[reportAttributeAccessIssue] - attrs makes it

    def apply(self, current: VcpuState) -> VcpuState:
        """`current` with the fields changed."""
        return attrs.evolve(current, **self.fields)  # type: ignore[misc]

    @property
    def name(self) -> str:
        """The portable name of the state that is changed."""
        return name_of(self.kind)


def _check_field(kind: type[VcpuState], name: str, value: object) -> None:
    """Refuse a value of another kind than the field's, as far as the field's type is a class."""
    declared: Any = kind
    wanted = attrs.fields_dict(attrs.resolve_types(declared))[name].type
    if isinstance(wanted, type):
        number = issubclass(wanted, int) and not issubclass(wanted, bool)
        if not isinstance(value, int if number else wanted):
            raise PlanError(f"{kind.__name__}.{name} is a {wanted.__name__}, and {value!r} is none")
