"""The exits that reach a caller of `Vcpu.run`, as values.

Port and MMIO accesses are not among them: they are answered inside `run`, by the bus.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Exit:
    """Why `Vcpu.run` came back."""

    def describe(self) -> str:
        """The exit in one sentence."""
        return f"{type(self).__name__}"


@attrs.frozen
class Kicked(Exit):
    """Somebody called `kick`, or a signal arrived; calling `run` again goes on."""

    def describe(self) -> str:
        """The exit in one sentence."""
        return "the vCPU was kicked"


@attrs.frozen
class Halted(Exit):
    """The guest executed HLT and nothing in the hypervisor will wake it."""

    def describe(self) -> str:
        """The exit in one sentence."""
        return "the guest halted"


@attrs.frozen
class GuestException:
    """An exception of the guest's: its vector, its error code if it has one, the address it is about (a page fault's).

    `rip` is the instruction that caused it, None where that is not known, and for what the processor met while it
    delivered another event. `reason` says why it was raised (`IDT entry 6 lies beyond the IDT's limit of 0`), where
    the hypervisor tells. `name` is what the manual calls the vector (`#PF`), empty where that has no name.
    """

    vector: int
    error_code: int | None = None
    address: int | None = None
    rip: int | None = None
    reason: str = ""
    name: str = attrs.field(default="", eq=False)


@attrs.frozen
class Shutdown(Exit):
    """The vCPU shut down: on x86 a triple fault, the processor's last word.

    `exceptions` are what led to it, in their order, as far as the hypervisor tells: what an instruction caused, what
    the processor met while it delivered that, and so on up to the double fault and what it met while it delivered
    that one. `state_is_lost` when the hypervisor has reset the vCPU since, so that its registers say nothing of it.
    """

    exceptions: tuple[GuestException, ...] = ()
    state_is_lost: bool = False

    def describe(self) -> str:
        """The exit in one sentence."""
        what = "triple fault: an exception could not be delivered, and neither could the double fault it caused"
        return f"{what}{self._first()}{'; the vCPU has been reset since' if self.state_is_lost else ''}"

    def _first(self) -> str:
        """The exception that it began with, and what was in its way."""
        if not self.exceptions:
            return ""
        first, *others = self.exceptions
        where = "" if first.rip is None else f" at {first.rip:#x}"
        why = next((f": {each.reason}" for each in others if each.reason), "")
        return f" (first exception {first.name or first.vector}{where}{why})"


@attrs.frozen
class SystemEvent(Exit):
    """The guest asked the hypervisor itself for `kind`: shutdown, reset or crash (PSCI, SBI, Hyper-V)."""

    kind: str
    data: tuple[int, ...] = ()

    def describe(self) -> str:
        """The exit in one sentence."""
        return f"the guest asked for a {self.kind}"


@attrs.frozen
class FailEntry(Exit):
    """The processor refused to enter the guest: its state breaks a rule. `hardware_reason` is its own code for it.

    `cause` is the code in words (`VM-entry failure due to invalid guest state`), empty for one that is not known.
    """

    hardware_reason: int
    cpu: int = 0
    cause: str = ""

    def describe(self) -> str:
        """The exit in one sentence."""
        where = f"hardware reason {self.hardware_reason:#x} on host CPU {self.cpu}"
        return f"the processor refused to enter the guest: {self.cause or 'for a reason without a name'} ({where})"


@attrs.frozen
class InternalError(Exit):
    """The hypervisor gave up: `suberror` is its code, `data` its words, `cause` the code in words.

    `instruction` holds the bytes of the instruction that it could not emulate, as far as it tells; `details` are the
    words of `data` that have names.
    """

    suberror: int
    data: tuple[int, ...] = ()
    cause: str = ""
    instruction: bytes = b""
    details: tuple[tuple[str, int], ...] = ()

    def describe(self) -> str:
        """The exit in one sentence."""
        cause = self.cause or "for a reason without a name"
        code = [f"instruction {self.instruction.hex(' ')}"] if self.instruction else []
        facts = [f"suberror {self.suberror}", *code, *_words(self.details, self.data)]
        return f"the hypervisor failed: {cause} ({', '.join(facts)})"


@attrs.frozen
class MemoryFault(Exit):
    """The guest touched memory that the hypervisor cannot map: `guest_address`, `size_bytes`.

    `cause` is what `flags` say, in words (`the access was to private memory`).
    """

    guest_address: int
    size_bytes: int
    flags: int = 0
    cause: str = ""

    def describe(self) -> str:
        """The exit in one sentence."""
        flags = f"flags {self.flags:#x}{': ' * bool(self.cause)}{self.cause}"
        return f"memory at {self.guest_address:#x} ({self.size_bytes} bytes) cannot be mapped ({flags})"


@attrs.frozen
class DebugTrap(Exit):
    """A single step or breakpoint that the caller asked for: the exception vector, RIP, DR6 and DR7."""

    vector: int
    rip: int
    dr6: int = 0
    dr7: int = 0

    def describe(self) -> str:
        """The exit in one sentence."""
        return f"debug exception {self.vector} at {self.rip:#x}"


@attrs.frozen
class UnknownExit(Exit):
    """An exit that this backend does not handle: its number, its name where known, and its raw fields.

    `fields` are the fields by name, where they have names, and `cause` what the numbers among them say, in words.
    """

    number: int
    name: str = "?"
    data: tuple[int, ...] = ()
    fields: tuple[tuple[str, int], ...] = ()
    cause: str = ""

    def describe(self) -> str:
        """The exit in one sentence."""
        words = _words(self.fields, self.data)
        cause = f": {self.cause}" if self.cause else ""
        facts = f" ({', '.join(words)})" if words else ""
        return f"exit {self.number} ({self.name}) that nobody here handles{cause}{facts}"


def _words(fields: tuple[tuple[str, int], ...], data: tuple[int, ...]) -> list[str]:
    """Numbers by name, or all of them in a row where they have none."""
    if fields:
        return [f"{name} {value:#x}" for name, value in fields]
    return [f"data {' '.join(f'{word:#x}' for word in data)}"] if data else []
