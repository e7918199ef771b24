"""What is told of an engine that gave up: its own words, where the guest was, and the code there."""

from __future__ import annotations

from anyvisor.exits import InternalError
from anyvisor_unicorn import layout, paging
from anyvisor_unicorn.engine import error_text
from anyvisor_unicorn.faults import Fault
from anyvisor_unicorn.processor import Processor

LONGEST_INSTRUCTION_BYTES = 15
"""SDM Vol. 2A, 2.3.11."""


def engine_error(cpu: Processor, error: int) -> InternalError:
    """The exit for an error number of Unicorn's; the state has been saved."""
    rip = cpu.u64[layout.RIP]
    linear = rip if cpu.u32[layout.HFLAGS] & layout.H_CS64 else cpu.base(layout.CS) + rip & 0xFFFFFFFF
    code = _code_at(cpu, linear)
    cause = error_text(error) if code else f"{error_text(error)}: there is no code in RAM at {linear:#x}"
    return InternalError(error, (rip,), cause, code, (("rip", rip), ("linear_address", linear)))


def _code_at(cpu: Processor, linear: int) -> bytes:
    """As many bytes as an instruction may have, or as can be read of them: the page may be the last that is mapped."""
    in_page = paging.PAGE_BYTES - (linear & paging.PAGE_MASK)
    for size_bytes in sorted({LONGEST_INSTRUCTION_BYTES, min(in_page, LONGEST_INSTRUCTION_BYTES)}, reverse=True):
        try:
            return paging.read(cpu, linear, size_bytes, "the code")
        except Fault:
            continue
    return b""
