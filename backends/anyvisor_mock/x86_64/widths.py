"""How many bits each field of a state has in KVM's interface: what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from anyvisor.x86_64.chips import Ioapic, Pic, PitChannel
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.state import DebugRegs, DescriptorTable, Fpu, Regs, SegmentRegister, Sregs, VcpuEvents, Xcrs
from anyvisor_mock.rules import WIDTHS

Widths = dict[str, int]
BITS: dict[type[Any], tuple[int, Widths]] = {
    Regs: (64, {}),
    Sregs: (64, {"interrupt_bitmap": 256}),
    SegmentRegister: (8, {"base": 64, "limit": 32, "selector": 16}),
    DescriptorTable: (64, {"limit": 16}),
    DebugRegs: (64, {}),
    Xcrs: (64, {}),
    Lapic: (32, {"in_service": 256, "trigger_mode": 256, "interrupt_request": 256}),
    VcpuEvents: (8, {"exception_error_code": 32, "exception_payload": 64, "sipi_vector": 32}),
    Fpu: (16, {"ftw": 8, "last_ip": 64, "last_dp": 64}),
    Pic: (8, {}),
    Ioapic: (32, {"base_address": 64, "redirection": 64}),
    PitChannel: (8, {"count": 32, "latched_count": 16, "count_load_time": 63}),
}
"""Of each type, how wide its fields are, and which are wider or narrower than that."""
COUNTS: dict[tuple[type[Any], str], int] = {
    (Ioapic, "redirection"): 24,
    (DebugRegs, "db"): 4,
    (Fpu, "st"): 8,
    (Fpu, "xmm"): 16,
}
"""How many items there are in the fields that have several."""
REGISTER_BYTES = 16


def check_widths(operation: str, name: str, state: Any) -> None:
    """HypervisorError, naming the field, when a number in a state does not fit; states within it are checked, too."""
    if type(state) not in BITS:
        return
    otherwise, special = BITS[type(state)]
    for each in attrs.fields(type(state)):
        value = getattr(state, each.name)
        if not _fits(value, special.get(each.name, otherwise), COUNTS.get((type(state), each.name))):
            raise WIDTHS.broken(operation, f"{name}: {each.name}={_shown(value)}")
        if attrs.has(type(value)):
            check_widths(operation, f"{name}: {each.name}", value)


def _fits(value: Any, bits: int, count: int | None) -> bool:
    if count is not None:
        return len(value) == count and all(_item_fits(each, bits) for each in value)
    return not isinstance(value, int) or _item_fits(value, bits)


def _item_fits(value: int | bytes, bits: int) -> bool:
    return len(value) == REGISTER_BYTES if isinstance(value, bytes) else not value >> bits


def _shown(value: Any) -> str:
    show: Callable[[Any], str] = lambda item: f"{item:#x}" if isinstance(item, int) else repr(item)  # noqa: E731
    return show(value) if not isinstance(value, Iterable) else ", ".join(map(show, value))
