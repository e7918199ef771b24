"""What goes wrong while an event is delivered, and what the processor makes of it.

A fault during delivery becomes the event to be delivered instead; two faults that do not go together become a double
fault, and a fault during that a shutdown. Intel SDM Vol. 3, 6.15, "Interrupt 8 - Double Fault Exception".
"""

from __future__ import annotations

DE, BP, OF, UD, DF, TS, NP, SS, GP, PF = 0, 3, 4, 6, 8, 10, 11, 12, 13, 14
CONTRIBUTORY = frozenset({DE, TS, NP, SS, GP})
WITH_ERROR_CODE = frozenset({DF, TS, NP, SS, GP, PF, 17})


class Fault(Exception):
    """An exception of the guest's: `vector`, `error_code` if it has one, and for a page fault the `linear` address."""

    def __init__(self, vector: int, error_code: int | None = 0, linear: int | None = None):
        self.vector = vector
        self.error_code = error_code
        self.linear = linear
        super().__init__(f"exception {vector}, error code {error_code}")


class TripleFault(Exception):
    """A double fault could not be delivered: the processor shuts down."""


def during(vector: int, fault: Fault) -> Fault:
    """What is delivered in place of `vector` when its delivery met `fault`; TripleFault after a double fault."""
    if vector == DF:
        raise TripleFault
    second = fault.vector
    both_contribute = vector in CONTRIBUTORY and second in CONTRIBUTORY
    during_page_fault = vector == PF and (second == PF or second in CONTRIBUTORY)
    return Fault(DF, 0) if both_contribute or during_page_fault else fault
