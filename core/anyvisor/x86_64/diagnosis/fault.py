"""An exception that an instruction raises, as a value."""

from __future__ import annotations

import attrs

FETCH, READ, WRITE = "fetch", "read", "write"


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
