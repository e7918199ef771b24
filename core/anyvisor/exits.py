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
class Shutdown(Exit):
    """The vCPU shut down: on x86 a triple fault, the processor's last word."""

    def describe(self) -> str:
        """The exit in one sentence."""
        return "triple fault: an exception could not be delivered, and neither could the double fault it caused"


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
    """The processor refused to enter the guest: its state breaks a rule. `hardware_reason` is its own code for it."""

    hardware_reason: int
    cpu: int = 0

    def describe(self) -> str:
        """The exit in one sentence."""
        where = f"hardware reason {self.hardware_reason:#x} on host CPU {self.cpu}"
        return f"the processor refused to enter the guest ({where})"


@attrs.frozen
class InternalError(Exit):
    """The hypervisor gave up: `suberror` is its code, `data` its words, `cause` its own name for it if it has one.

    KVM's 1: an instruction it cannot emulate.
    """

    suberror: int
    data: tuple[int, ...] = ()
    cause: str = ""

    def describe(self) -> str:
        """The exit in one sentence."""
        causes = {
            1: "an instruction could not be emulated",
            2: "an exception during event delivery",
            3: "delivery of an event failed",
        }
        cause = self.cause or causes.get(self.suberror, "unknown suberror")
        words = f", data {' '.join(f'{word:#x}' for word in self.data)}" if self.data else ""
        return f"the hypervisor failed: {cause} (suberror {self.suberror}{words})"


@attrs.frozen
class MemoryFault(Exit):
    """The guest touched memory that the hypervisor cannot map: `guest_address`, `size_bytes`."""

    guest_address: int
    size_bytes: int
    flags: int = 0

    def describe(self) -> str:
        """The exit in one sentence."""
        return f"memory at {self.guest_address:#x} ({self.size_bytes} bytes) cannot be mapped (flags {self.flags:#x})"


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
    """An exit that this backend does not handle: its number, its name where known, and its raw fields."""

    number: int
    name: str = "?"
    data: tuple[int, ...] = ()

    def describe(self) -> str:
        """The exit in one sentence."""
        words = " ".join(f"{word:#x}" for word in self.data)
        return f"exit {self.number} ({self.name}) that nobody here handles{', data ' + words if words else ''}"
