"""A PC's local APIC and I/O APIC, for a machine with one processor whose hypervisor has neither.

Some facts about the way of an interrupt. A device raises a line; the I/O APIC, which listens to all lines, turns it
into a vector for the local APIC, and that offers it to the processor. The 8259 pair hears the same lines. Its output is
wired to the local APIC's pin LINT0: as long as that entry is unmasked and says ExtINT, which is how the machine begins,
its interrupts go through as if there were no APIC ("virtual wire mode"). An OS that uses the I/O APIC masks the pair.

Both chips have 32-bit registers at multiples of 16 bytes, and want them accessed whole. Accesses of other sizes read as
0 and write nothing, but for the I/O APIC's index; an address between two registers is that of the lower one in the
local APIC, and nothing in the I/O APIC. So it is in QEMU.

The processor's CR8 is meant to be another way to the task priority, and its APIC base MSR to move or disable the local
APIC; neither can be seen from here.
"""

from __future__ import annotations

import threading

from anyvisor.device import DeviceContext
from anyvisor.interrupts import InterruptSource
from anyvisor.plan import DeviceSpec
from anyvisor.x86_64.chips import Ioapic
from anyvisor.x86_64.lapic import LAPIC_BASE
from anyvisor_pc.io_apic import INDEX, IoApic, Redirection
from anyvisor_pc.local_apic import LocalApic

IO_APIC_BASE = Ioapic().base_address
LOCAL_OFFSET = LAPIC_BASE - IO_APIC_BASE
"""Where the local APIC begins, counted from the I/O APIC."""
REGISTER_BYTES = 4
REGISTER_OFFSET = 0xFF0
"""The bits of an offset in its page that select a register."""


def open_apic(spec: DeviceSpec, context: DeviceContext) -> Apic:  # noqa: ARG001 - a factory's signature
    """The APICs, wired to all lines, and to the processor in place of what was there: the 8259 pair, if any."""
    apic = Apic(context)
    context.wiring.listen(apic.set_line)
    context.wiring.connect(apic)
    return apic


class Apic:
    """The I/O APIC at offset 0, the local APIC at offset 0x200000; the processor's `InterruptSource`.

    One lock holds both. It is not held while the 8259 pair is called, whose lock may be held while a line is set.
    """

    def __init__(self, context: DeviceContext):
        self._lock = threading.Lock()
        self._notify = context.wiring.notify
        self._pic: InterruptSource | None = context.wiring.source
        self.io = IoApic(self._deliver)
        self.local = LocalApic(context.clock, context.clock.timer(self._on_alarm), self.io.end_interrupt)
        self._ready, self._passes_pic = False, self.local.passes_extint

    # -- for the guest -------------------------------------------------------------------------------------------

    def read(self, offset: int, size_bytes: int) -> int:
        """A register of one of them."""
        with self._lock:
            if size_bytes != REGISTER_BYTES:
                return self.io.read(offset) if offset == INDEX else 0
            if offset < LOCAL_OFFSET:
                return self.io.read(offset)
            value = self.local.read(offset & REGISTER_OFFSET)
            self._update()
            return value

    def write(self, offset: int, size_bytes: int, value: int) -> None:
        """Write to a register of one of them."""
        with self._lock:
            if offset < LOCAL_OFFSET:
                if size_bytes == REGISTER_BYTES or offset == INDEX:
                    self.io.write(offset, value)
            elif size_bytes == REGISTER_BYTES:
                self.local.write(offset & REGISTER_OFFSET, value)
            self._update()

    # -- for the devices -----------------------------------------------------------------------------------------

    def set_line(self, gsi: int, level: bool) -> None:
        """A line of the machine is asserted, or no longer."""
        with self._lock:
            self.io.set_line(gsi, level)
            self._update()

    # -- for the processor ---------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether there is an interrupt: of the local APIC's own, or of the 8259 pair if they are let through."""
        return self._ready or (self._passes_pic and self._pic is not None and self._pic.pending)

    def acknowledge(self) -> int:
        """The vector of the interrupt that is taken, the APIC's own first; the spurious one if none is left."""
        with self._lock:
            if self._ready:
                vector = self.local.take()
                self._update()
                return vector
            pic = self._pic if self._passes_pic else None
        return pic.acknowledge() if pic is not None and pic.pending else self.local.spurious_vector

    def close(self) -> None:
        """Stop the timer."""
        with self._lock:
            self.local.timer.close()

    def _deliver(self, entry: Redirection) -> bool:
        meant = self.local.is_meant(entry.destination, logical=entry.logical)
        return meant and self.local.accept(entry.vector, level=entry.level_triggered)

    def _on_alarm(self) -> None:
        with self._lock:
            self.local.timer.settle()
            self._update()

    def _update(self) -> None:
        """Work out what `pending` looks at; tell the processor of what is new."""
        before = self._ready, self._passes_pic
        self._ready = self.local.pending
        self._passes_pic = self.local.passes_extint or self.io.passes_extint
        if (self._ready and not before[0]) or (self._passes_pic and not before[1]):
            self._notify()
