"""A boot plan in words: what its bytes and states mean, read back as the guest will read them.

The tables are found by `read_back`, so what is shown is what counts, also when a plugin has replaced a step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from anyvisor.bits import Bits
from anyvisor.codec import name_of
from anyvisor.errors import AnyvisorError, PlanError
from anyvisor.facts import HostFacts
from anyvisor.memory import format_size
from anyvisor.plan import BootPlan, DeviceSpec, Step, VcpuPlan, state_names
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.paging import PageEntry
from anyvisor.x86_64.read_back import (
    boot_fields,
    command_line,
    find_boot_params,
    find_gdt,
    find_mptable,
    find_page_tables,
    read_boot_params,
    read_gdt,
    read_mptable,
    read_page_tables,
)
from anyvisor.x86_64.state import Regs

WRITABLE = PageEntry(writable=True)
"""What pages are if nothing is said of them: for the kernel, and writable."""


def describe(plan: BootPlan, facts: HostFacts) -> list[tuple[str, str]]:
    """Titles and texts: all that a plan does, in boot order. `facts` are those that it was made with.

    A table that cannot be read back is described by the reason.
    """
    parts: dict[str, Callable[[BootPlan], str]] = {
        "Memory map": BootPlan.describe,
        "GDT": _gdt,
        "Page tables": _page_tables,
        "Boot parameters": _boot_params,
        "MP table": _mptable,
        "CPUID, as against the host's": functools.partial(_cpuid, facts=facts),
        "MSRs": functools.partial(_per_vcpu, part=_msrs),
        "Registers": functools.partial(_per_vcpu, part=_registers),
        "Virtual machine": _machine,
        "Devices": _devices,
        "Steps": _steps,
    }
    return [(title, _attempt(part, plan)) for title, part in parts.items()]


def _attempt(part: Callable[[BootPlan], str], plan: BootPlan) -> str:
    try:
        return part(plan)
    except (AnyvisorError, OSError) as error:
        return f"cannot be read: {error}"


# -- tables in memory ----------------------------------------------------------------------------------------


def _gdt(plan: BootPlan) -> str:
    place = find_gdt(plan)
    if place is None:
        return "none: GDTR keeps its reset value"
    return f"at {place.start:#x}, limit {place.size_bytes - 1} bytes\n{read_gdt(plan, place).describe()}"


def _page_tables(plan: BootPlan) -> str:
    root = find_page_tables(plan)
    if root is None:
        return "none: paging is off at the first instruction"
    lines = [f"root (CR3) {root:#x}"]
    for run in read_page_tables(plan, root)[0]:
        mode = "" if run.permissions == WRITABLE else f", {run.permissions.words() or 'read-only'}"
        pages = f"{run.pages} pages of {format_size(run.page_bytes)}{mode}"
        lines.append(f"{run.start:#014x} - {run.end - 1:#014x}  to {run.leads_to}: {pages}")
    return "\n".join(lines)


def _boot_params(plan: BootPlan) -> str:
    regs = boot_fields(plan, Regs)
    if not regs:
        return "none: the first vCPU keeps its reset registers"
    place = find_boot_params(plan)
    if place is None:
        return f"none: RSI ({regs.get('rsi', 0):#x}) leads to no zero page"
    params = read_boot_params(plan, place)
    line = command_line(plan, params)
    initrd = f"{params.initrd} ({format_size(params.initrd.size_bytes)})" if params.initrd else "none"
    return "\n".join(
        [
            f"entry        {regs['rip']:#x}",
            f"command line {line!r} ({len(line)} of {params.header.cmdline_size} bytes)",
            f"initrd       {initrd}",
            f"zero page    at {place.start:#x}",
            *(f"  {each}" for each in params.describe().splitlines()),
        ]
    )


def _mptable(plan: BootPlan) -> str:
    pointer = find_mptable(plan)
    if pointer is None:
        return "none"
    return f"pointer at {pointer.start:#x}\n{read_mptable(plan, pointer).describe()}"


# -- states --------------------------------------------------------------------------------------------------


def _cpuid(plan: BootPlan, facts: HostFacts) -> str:
    """What the first vCPU's table changes, then what each of the others has differently."""
    lines: list[str] = []
    before, whose = facts.supported_state(Cpuid), f"the {facts.backend} backend"
    if facts.backend == "none":
        whose = "a generic processor"
    for vcpu in plan.vcpus:
        found = vcpu.state(Cpuid)
        if not isinstance(found, Cpuid):
            raise PlanError(f"vCPU {vcpu.index} has no CPUID table of its own")
        changes = before.diff(found)
        lines += [
            f"vCPU {vcpu.index}, against {whose}:",
            *(f"  {each}" for each in changes or ["no difference"]),
        ]
        if vcpu.index == 0:
            before, whose = found, "vCPU 0"
    return "\n".join(lines)


def _per_vcpu(plan: BootPlan, part: Callable[[VcpuPlan], Iterable[str]]) -> str:
    """A part of each vCPU's plan; vCPUs that have the same are told together."""
    found: dict[str, list[str]] = {}
    for vcpu in plan.vcpus:
        found.setdefault("\n".join(f"  {line}" for line in part(vcpu)), []).append(str(vcpu.index))
    return "\n".join(f"vCPU {', '.join(indices)}:\n{text}" for text, indices in found.items())


def _msrs(vcpu: VcpuPlan) -> list[str]:
    state = vcpu.state(Msrs)
    return state.describe().splitlines() if isinstance(state, Msrs) else ["as after a reset"]


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


# -- the machine ---------------------------------------------------------------------------------------------


def _machine(plan: BootPlan) -> str:
    before, after = state_names(plan.vm_states_before), state_names(plan.vm_states_after)
    return "\n".join(
        [
            f"before the vCPUs: {', '.join(before) or 'nothing'}",
            f"vCPUs: {len(plan.vcpus)}, APIC ids {', '.join(str(vcpu.hardware_id) for vcpu in plan.vcpus)}",
            f"after the vCPUs: {', '.join(after) or 'nothing'}",
            "time: counted from what the guest does" if plan.deterministic else "time: the host's",
        ]
    )


def _devices(plan: BootPlan) -> str:
    return "\n".join(map(_device, plan.devices)) or "none"


def _device(spec: DeviceSpec) -> str:
    parts = [f"port {region.start:#x}-{region.end - 1:#x}" for region in spec.ports]
    parts += [f"MMIO {region.start:#x}-{region.end - 1:#x}" for region in spec.mmio]
    parts += [] if spec.gsi is None else [f"interrupt {spec.gsi}"]
    parts += [f"{name}={value}" for name, value in spec.settings.items()]
    return f"{spec.name} ({spec.kind}): {', '.join(parts)}"


def _steps(plan: BootPlan) -> str:
    return "\n".join(map(_step, plan.steps))


def _step(step: Step) -> str:
    verb = "dropped" if step.dropped else "adjusted"
    adjusted = f", {verb} by {', '.join(step.adjusted_by)}" if step.adjusted_by else ""
    return f"{step.hook:<24} {step.provided_by or 'nobody'}{adjusted}"
