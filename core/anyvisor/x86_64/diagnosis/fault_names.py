"""What kinds of exceptions are called as causes, and what to do about each."""

from __future__ import annotations

from anyvisor.x86_64.diagnosis.exceptions import BP, DB, DE, GP, NM, NP, PF, SS, UD

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
REMEDIES = {
    "undefined-opcode": "look at the code below: is it what you meant to run, built for this mode and this CPU model "
    "(CPUID)? A UD2 is a failed assertion of the guest's own",
    "page-fault": "map that address in the page tables, or find out where the guest got it from",
    "entry-not-mapped": "map the entry in anyvisor_page_tables, or enter the kernel at an address that is mapped",
    "stack-not-mapped": "point RSP at mapped RAM in anyvisor_registers, with room below it",
    "jump-to-zero": "look for a null function pointer or a return from an empty stack: the stack below says who called",
    "code-not-mapped": "find out how it got there: a bad jump, a return from a broken stack, or page tables that "
    "do not map the code that switched to them",
    "selector-beyond-gdt": "make GDTR's limit the GDT's size in bytes less one (Gdt.limit_bytes), and put the "
    "descriptor into the table",
    "bad-selector": "put a present descriptor of the right kind at that selector of the GDT",
}
