"""Exceptions of x86 in words: vectors with their names, and what error codes say.

Some facts about error codes. Most of those that there are hold a selector: which entry of which descriptor table the
exception is about, and whether the program or an event from outside met it (SDM Vol. 3, 6.13). A page fault's says what
the access was instead, and that of #CP which check of the shadow stack failed. Those of #DF and #AC are always 0.
"""

from __future__ import annotations

import attrs

from anyvisor.bits import Bits, bit, field
from anyvisor.exits import GuestException

DOUBLE_FAULT, PAGE_FAULT, CONTROL_PROTECTION = 8, 14, 21
SELECTOR_SHIFT = 3
"""From an index to its place in a selector, and in an error code."""


@attrs.frozen
class ExceptionKind:
    """A vector: its mnemonic (empty for one that has none), its name, and whether an error code comes with it."""

    vector: int
    mnemonic: str
    name: str
    has_error_code: bool = False

    def __str__(self) -> str:
        return f"{self.mnemonic} ({self.name})" if self.mnemonic else self.name


KINDS = {
    each.vector: each
    for each in (
        ExceptionKind(0, "#DE", "divide error"),
        ExceptionKind(1, "#DB", "debug exception"),
        ExceptionKind(2, "", "NMI"),
        ExceptionKind(3, "#BP", "breakpoint"),
        ExceptionKind(4, "#OF", "overflow"),
        ExceptionKind(5, "#BR", "bound range exceeded"),
        ExceptionKind(6, "#UD", "invalid opcode"),
        ExceptionKind(7, "#NM", "device not available"),
        ExceptionKind(8, "#DF", "double fault", has_error_code=True),
        ExceptionKind(9, "", "coprocessor segment overrun"),
        ExceptionKind(10, "#TS", "invalid TSS", has_error_code=True),
        ExceptionKind(11, "#NP", "segment not present", has_error_code=True),
        ExceptionKind(12, "#SS", "stack-segment fault", has_error_code=True),
        ExceptionKind(13, "#GP", "general protection", has_error_code=True),
        ExceptionKind(14, "#PF", "page fault", has_error_code=True),
        ExceptionKind(16, "#MF", "x87 floating-point error"),
        ExceptionKind(17, "#AC", "alignment check", has_error_code=True),
        ExceptionKind(18, "#MC", "machine check"),
        ExceptionKind(19, "#XM", "SIMD floating-point exception"),
        ExceptionKind(20, "#VE", "virtualization exception"),
        ExceptionKind(21, "#CP", "control protection exception", has_error_code=True),
        ExceptionKind(28, "#HV", "hypervisor injection exception"),
        ExceptionKind(29, "#VC", "VMM communication exception", has_error_code=True),
        ExceptionKind(30, "#SX", "security exception", has_error_code=True),
    )
}
"""By vector; SDM Vol. 3, table 6-1, and for 28 to 30 APM Vol. 2, 8.2."""
WITH_SELECTOR = (10, 11, 12, 13)


def exception_kind(vector: int) -> ExceptionKind:
    """What a vector stands for; one that is no exception is an interrupt of its number."""
    return KINDS.get(vector) or ExceptionKind(vector, "", f"vector {vector}")


class PageFaultCode(Bits):
    """The error code of #PF; SDM Vol. 3, 4.7, and for `rmp` APM Vol. 2, 8.4.2."""

    present = bit(0)
    write = bit(1)
    user = bit(2)
    reserved = bit(3)
    fetch = bit(4)
    protection_key = bit(5)
    shadow_stack = bit(6)
    hlat = bit(7)
    sgx = bit(15)
    rmp = bit(31)

    def describe(self, address: int | None = None) -> str:
        """The access and what was wrong with it: `write by the supervisor to 0x1000: the page is not present`."""
        access = "instruction fetch" if self.fetch else "write" if self.write else "read"
        who = "user code" if self.user else "the supervisor"
        where = "" if address is None else f" {'to' if self.write else 'at'} {address:#x}"
        return f"{access} by {who}{where}: {self._wrong()}"

    def _wrong(self) -> str:
        if not self.present:
            return "not mapped"
        if self.reserved:
            return "a reserved bit is set in a paging entry"
        others = [name for name in ("protection_key", "shadow_stack", "hlat", "sgx", "rmp") if getattr(self, name)]
        return f"mapped, but not for this ({', '.join(others)})" if others else "mapped, but not for this"


class SelectorCode(Bits):
    """The error code of #TS, #NP, #SS and #GP where it is not 0; SDM Vol. 3, 6.13."""

    external = bit(0)
    idt = bit(1)
    ldt = bit(2)
    index = field(3, 13)

    def describe(self) -> str:
        """Which entry it is about: `IDT entry 6, met while an event was delivered`."""
        table = "IDT" if self.idt else "LDT" if self.ldt else "GDT"
        which = f"IDT entry {self.index}" if self.idt else f"{table} selector {self.index << SELECTOR_SHIFT:#x}"
        met = ", met while an event was delivered" if self.external else ""
        return f"{which if int(self) & ~1 else 'no selector'}{met}"


class ControlProtectionCode(Bits):
    """The error code of #CP; SDM Vol. 3, 6.15."""

    check = field(0, 15)
    enclave = bit(15)

    def describe(self) -> str:
        """Which check failed: `near RET: the shadow stack has another address`."""
        return CHECKS_OF_CP.get(self.check, f"check {self.check}")


CHECKS_OF_CP = {
    1: "near RET: the shadow stack has another address",
    2: "far RET or IRET: the shadow stack has another address",
    3: "indirect branch to something else than ENDBR",
    4: "RSTORSSP: no valid token",
    5: "SETSSBSY: no valid token",
}


def describe_error_code(vector: int, code: int, address: int | None = None) -> str:
    """An exception's error code in words, empty where there is nothing to it."""
    if vector == PAGE_FAULT:
        return PageFaultCode(code).describe(address)
    if vector == CONTROL_PROTECTION:
        return ControlProtectionCode(code).describe()
    return SelectorCode(code).describe() if vector in WITH_SELECTOR and code else ""


def describe_exception(exception: GuestException) -> str:
    """An exception in one line.

    `#PF (page fault) at RIP 0x1000, error code 0x2: write by the supervisor to 0x5000: not mapped`, and why it was
    raised where that is known.
    """
    at = "" if exception.rip is None else f" at RIP {exception.rip:#x}"
    code, words = exception.error_code, ""
    if code is not None:
        words = describe_error_code(exception.vector, code, exception.address)
        at += f", error code {code:#x}"
    why = "; ".join(filter(None, (words, exception.reason)))
    return f"{exception_kind(exception.vector)}{at}{': ' if why else ''}{why}"
