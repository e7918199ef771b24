"""The states, devices and boot steps of a plan in words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from anyvisor.bits import Bits
from anyvisor.codec import name_of
from anyvisor.folding import ranges
from anyvisor.plan import BootPlan, DeviceSpec, Step, VcpuPlan, state_names
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import Regs


def msrs(plan: BootPlan) -> str:
    """The MSRs of each vCPU by name."""
    return _per_vcpu(plan, _msrs)


def registers(plan: BootPlan) -> str:
    """The other states of each vCPU, as far as they are not zero."""
    return _per_vcpu(plan, _registers)


def machine(plan: BootPlan) -> str:
    """What the VM itself is given, and how many vCPUs it has."""
    before, after = state_names(plan.vm_states_before), state_names(plan.vm_states_after)
    return "\n".join(
        [
            f"before the vCPUs: {', '.join(before) or 'nothing'}",
            f"vCPUs: {len(plan.vcpus)}, APIC ids {ranges(vcpu.hardware_id for vcpu in plan.vcpus)}",
            f"after the vCPUs: {', '.join(after) or 'nothing'}",
            "time: counted from what the guest does" if plan.deterministic else "time: the host's",
        ]
    )


def devices(plan: BootPlan) -> str:
    """A line for each device."""
    return "\n".join(map(_device, plan.devices)) or "none"


def steps(plan: BootPlan) -> str:
    """Who provided and adjusted each boot step."""
    return "\n".join(map(_step, plan.steps))


def _per_vcpu(plan: BootPlan, part: Callable[[VcpuPlan], Iterable[str]]) -> str:
    """A part of each vCPU's plan; vCPUs that have the same are told together."""
    found: dict[str, list[int]] = {}
    for vcpu in plan.vcpus:
        found.setdefault("\n".join(f"  {line}" for line in part(vcpu)), []).append(vcpu.index)
    return "\n".join(f"vCPU {ranges(indices)}:\n{text}" for text, indices in found.items())


def _msrs(vcpu: VcpuPlan) -> list[str]:
    state = vcpu.state(Msrs)
    return _described(state).splitlines() if isinstance(state, Msrs) else ["as after a reset"]


@functools.lru_cache(maxsize=8)
def _described(state: Msrs) -> str:
    """MSRs in words; most vCPUs have the same."""
    return state.describe()


def _registers(vcpu: VcpuPlan) -> Iterator[str]:
    states = [each for each in vcpu.states if not isinstance(each, Cpuid | Msrs)]
    if vcpu.state(Regs) is None:
        yield "waits for the kernel to wake it (INIT, SIPI)"
    for state in states:
        if isinstance(state, Change):
            yield f"{state.name}, changed:"
            yield from _fields(state.fields)
        else:
            yield f"{name_of(type(state))}:"
            yield from _fields(dict(_set_fields(state)))


def _set_fields(state: VcpuState) -> Iterator[tuple[str, Any]]:
    """The fields of a state that are not zero."""
    for each in attrs.fields(type(state)):  # type: ignore[arg-type]
        value = getattr(state, each.name)
        if isinstance(value, int) and value:
            yield each.name, value


def _fields(fields: dict[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        yield f"  {name:<8} {_word(value)}"


def _word(value: Any) -> str:
    if isinstance(value, Bits):
        return f"{int(value):#x} {value.words()}"
    if attrs.has(type(value)):
        items = ((each.name, getattr(value, each.name)) for each in attrs.fields(type(value)))
        return " ".join(name if item is True else f"{name}={item:#x}" for name, item in items if item is not False)
    return f"{value:#x}" if isinstance(value, int) else str(value)


def _device(spec: DeviceSpec) -> str:
    parts = [f"port {region.start:#x}-{region.end - 1:#x}" for region in spec.ports]
    parts += [f"MMIO {region.start:#x}-{region.end - 1:#x}" for region in spec.mmio]
    parts += [] if spec.gsi is None else [f"interrupt {spec.gsi}"]
    parts += [f"{name}={value}" for name, value in spec.settings.items()]
    return f"{spec.name} ({spec.kind}): {', '.join(parts)}"


def _step(step: Step) -> str:
    verb = "dropped" if step.dropped else "adjusted"
    adjusted = f", {verb} by {', '.join(step.adjusted_by)}" if step.adjusted_by else ""
    return f"{step.hook:<24} {step.provided_by or 'nobody'}{adjusted}"
