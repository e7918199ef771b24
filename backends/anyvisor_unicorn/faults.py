"""What goes wrong while an event is delivered, and what the processor makes of it.

A fault during delivery becomes the event to be delivered instead; two faults that do not go together become a double
fault, and a fault during that a shutdown. Intel SDM Vol. 3, 6.15, "Interrupt 8 - Double Fault Exception".
"""

from __future__ import annotations

from collections.abc import Iterable

from anyvisor.exits import GuestException
from anyvisor.x86_64.exceptions import exception_kind

DE, BP, OF, UD, DF, TS, NP, SS, GP, PF = 0, 3, 4, 6, 8, 10, 11, 12, 13, 14
CONTRIBUTORY = frozenset({DE, TS, NP, SS, GP})
WITH_ERROR_CODE = frozenset({DF, TS, NP, SS, GP, PF, 17})


class Fault(Exception):
    """An exception of the guest's: `vector`, `error_code` if it has one, and for a page fault the `linear` address.

    `reason` says what was wrong with what the processor needed.
    """

    def __init__(self, vector: int, error_code: int | None = 0, linear: int | None = None, *, reason: str = ""):
        self.vector = vector
        self.error_code = error_code
        self.linear = linear
        self.reason = reason
        super().__init__(f"exception {vector}, error code {error_code}: {reason}")

    def told(self) -> GuestException:
        """What is told of it."""
        name = exception_kind(self.vector).mnemonic
        return GuestException(self.vector, self.error_code, self.linear, reason=self.reason, name=name)


class TripleFault(Exception):
    """A double fault could not be delivered: the processor shuts down. `exceptions` are what led to it, in order."""

    def __init__(self, exceptions: Iterable[GuestException] = ()):
        self.exceptions = tuple(exceptions)
        super().__init__("triple fault")


def during(vector: int, fault: Fault) -> Fault | None:
    """What is delivered in place of `vector` when its delivery met `fault`; None for nothing, after a double fault."""
    if vector == DF:
        return None
    second = fault.vector
    both_contribute = vector in CONTRIBUTORY and second in CONTRIBUTORY
    during_page_fault = vector == PF and (second == PF or second in CONTRIBUTORY)
    if both_contribute or during_page_fault:
        return Fault(DF, 0, reason=f"exception {second} was met while exception {vector} was delivered")
    return fault
