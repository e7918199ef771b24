"""An exception that an instruction raises, as a value; what it is called as a cause, and what to do about it."""

from __future__ import annotations

import attrs

from anyvisor.x86_64.diagnosis.exceptions import BP, DB, DE, GP, NM, NP, PF, SS, UD

FETCH, READ, WRITE = "fetch", "read", "write"
NAMES = {
    DE: "divide-error",
    DB: "debug-exception",
    BP: "breakpoint",
    UD: "undefined-opcode",
    NM: "device-not-available",
    NP: "segment-not-present",
    SS: "stack-fault",
    GP: "general-protection",
    PF: "page-fault",
}
"""The name of the cause that an exception is, by its vector."""
REMEDIES = {
    "undefined-opcode": "look at the code in the report: is it what you meant to run, built for this mode and this CPU "
    "model (CPUID)? A UD2 is a failed assertion of the guest's own",
    "page-fault": "map that address in the page tables, or find out where the guest got it from",
    "entry-not-mapped": "map the entry in anyvisor_page_tables, or enter the kernel at an address that is mapped",
    "stack-not-mapped": "point RSP at mapped RAM in anyvisor_registers, with room below it",
    "jump-to-zero": "look for a null function pointer or a return from an empty stack: the stack in the report says "
    "who called",
    "code-not-mapped": "find out how it got there: a bad jump, a return from a broken stack, or page tables that "
    "do not map the code that switched to them",
    "selector-beyond-gdt": "make GDTR's limit the GDT's size in bytes less one (Gdt.limit_bytes), and put the "
    "descriptor into the table",
    "bad-selector": "put a present descriptor of the right kind at that selector of the GDT",
}
"""What to do, by the cause's name."""


@attrs.frozen
class Fault:
    """An exception: its vector, the instruction's linear address, and `why` in a sentence.

    `address` is the linear address of the memory that it is about, and `access` what was done there; `stack` when that
    was by the stack pointer. `selector` is the selector that could not be loaded. `check` is the name of the rule that
    was broken, where it has one, and `remedy` what to do then.
    """

    vector: int
    rip: int
    why: str
    address: int | None = None
    access: str = ""
    stack: bool = False
    selector: int | None = None
    check: str = ""
    remedy: str = ""
