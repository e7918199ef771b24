"""A boot plan in words: what its bytes and states mean, read back as the guest will read them.

Nothing here knows who made a plan or what its pieces are called: tables are found through the registers and
pointers that lead the processor and the kernel to them. So what is shown is what counts, also when a plugin
has replaced a step.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import attrs

from anyvisor.bits import Bits
from anyvisor.codec import name_of
from anyvisor.errors import AnyvisorError, PlanError
from anyvisor.facts import HostFacts
from anyvisor.memory import PAGE_BYTES, format_size
from anyvisor.plan import BootPlan, DeviceSpec, Step, VcpuPlan, state_names
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64 import setup_header
from anyvisor.x86_64.bootparams import SIZE_BYTES, BootParams
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.gdt import Gdt
from anyvisor.x86_64.mptable import MpTable, find_pointer
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.paging import ADDRESS_MASK, LEVEL_BYTES, PageEntry
from anyvisor.x86_64.state import Regs, Sregs

S = TypeVar("S", bound=VcpuState)


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
    except AnyvisorError as error:
        return f"cannot be read: {error}"


def _planned(vcpu: VcpuPlan, kind: type[S]) -> dict[str, Any]:
    """The fields of a planned state or change; empty when the vCPU keeps its reset value."""
    state = vcpu.state(kind)
    if isinstance(state, Change):
        return state.fields
    return attrs.asdict(state, recurse=False) if state else {}  # type: ignore[arg-type]


def _boot_sregs(plan: BootPlan) -> dict[str, Any]:
    return _planned(plan.vcpus[0], Sregs) if plan.vcpus else {}


# -- tables in memory ----------------------------------------------------------------------------------------


def _gdt(plan: BootPlan) -> str:
    fields = _boot_sregs(plan)
    if "gdt" not in fields:
        return "none: GDTR keeps its reset value"
    register = fields["gdt"]
    gdt = Gdt.from_bytes(plan.read(register.base, register.limit + 1), long_mode=bool(fields["efer"].lma))
    return f"at {register.base:#x}, limit {register.limit} bytes\n{gdt.describe()}"


def _page_tables(plan: BootPlan) -> str:
    fields = _boot_sregs(plan)
    if not (fields.get("cr0") and fields["cr0"].pg):
        return "none: paging is off at the first instruction"
    lines = [f"root (CR3) {fields['cr3']:#x}"]
    for start, end, target, page_bytes in _runs(_leaves(plan, fields["cr3"] & ADDRESS_MASK)):
        to = "itself" if start == target else f"{target:#x}"
        count = (end - start) // page_bytes
        lines.append(f"{start:#014x} - {end - 1:#014x}  to {to}: {count} pages of {format_size(page_bytes)}")
    return "\n".join(lines)


def _leaves(plan: BootPlan, table: int, level: int = 4, linear: int = 0) -> Iterator[tuple[int, int, int]]:
    """Every page of the tables at `table`: linear address, guest-physical address, size."""
    size = LEVEL_BYTES[level]
    entries = struct.iter_unpack("<Q", plan.read(table, PAGE_BYTES))
    for index, (number,) in enumerate(entries):
        entry = PageEntry(number)
        if not entry.present:
            continue
        address = number & ADDRESS_MASK
        if level == 1 or entry.page_size:
            yield linear + index * size, address & -size, size
        else:
            yield from _leaves(plan, address, level - 1, linear + index * size)


def _runs(leaves: Iterator[tuple[int, int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """Neighbouring pages joined: linear start and end, guest-physical start, page size."""
    run: tuple[int, int, int, int] | None = None
    for linear, target, size in leaves:
        if run and (run[1], run[2] + run[1] - run[0], run[3]) == (linear, target, size):
            run = (run[0], linear + size, run[2], size)
            continue
        if run:
            yield run
        run = (linear, linear + size, target, size)
    if run:
        yield run


def _boot_params(plan: BootPlan) -> str:
    regs = _planned(plan.vcpus[0], Regs) if plan.vcpus else {}
    if not regs:
        return "none: the first vCPU keeps its reset registers"
    params = BootParams.from_bytes(plan.read(regs["rsi"], SIZE_BYTES))
    if params.header.header != setup_header.SIGNATURE:
        return f"none: RSI ({regs['rsi']:#x}) leads to no zero page"
    longest = params.header.cmdline_size + 1
    line = plan.read(params.command_line_address, longest).partition(b"\0")[0].decode("ascii", "replace")
    initrd = f"{params.initrd} ({format_size(params.initrd.size_bytes)})" if params.initrd else "none"
    return "\n".join(
        [
            f"entry        {regs['rip']:#x}",
            f"command line {line!r} ({len(line)} of {params.header.cmdline_size} bytes)",
            f"initrd       {initrd}",
            f"zero page    at {regs['rsi']:#x}",
            *(f"  {each}" for each in params.describe().splitlines()),
        ]
    )


def _mptable(plan: BootPlan) -> str:
    pointer = find_pointer(plan.read)
    if pointer is None:
        return "none"
    return f"pointer at {pointer:#x}\n{MpTable.from_memory(plan.read, pointer).describe()}"


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
    adjusted = f", adjusted by {', '.join(step.adjusted_by)}" if step.adjusted_by else ""
    return f"{step.hook:<24} {step.provided_by or 'nobody'}{adjusted}"
