"""The x86_64 state types of a VM: the chips that its vCPUs share, where the hypervisor has them, and its clock.

Some facts about the chips. A PC has two 8259A interrupt controllers, one behind the other, an I/O APIC beside them
and an 8254 timer (data sheets: Intel 8259A, 82093AA, 8254). A plan may leave a chip's registers open: it is then made
and keeps its reset state.
"""

from __future__ import annotations

import attrs

from anyvisor.codec import named
from anyvisor.states import VmState


@attrs.frozen
class Pic:
    """One 8259A interrupt controller, with the register names of its data sheet."""

    last_irr: int = 0
    irr: int = 0
    imr: int = 0
    isr: int = 0
    priority_add: int = 0
    irq_base: int = 0
    read_reg_select: int = 0
    poll: int = 0
    special_mask: int = 0
    init_state: int = 0
    auto_eoi: int = 0
    rotate_on_auto_eoi: int = 0
    special_fully_nested_mode: int = 0
    init4: int = 0
    elcr: int = 0
    elcr_mask: int = 0


@attrs.frozen
class Ioapic:
    """The I/O APIC (82093AA): its registers and the 24 redirection entries as 64-bit numbers."""

    base_address: int = 0xFEC00000
    ioregsel: int = 0
    id: int = 0
    irr: int = 0
    redirection: tuple[int, ...] = (1 << 16,) * 24


@named("x86_64.Irqchip")
@attrs.frozen
class Irqchip(VmState):
    """The PC's interrupt chips in the hypervisor: two 8259A and an I/O APIC. A part that is None keeps its reset state.

    Must be put before the first vCPU is created.
    """

    pic_master: Pic | None = None
    pic_slave: Pic | None = None
    ioapic: Ioapic | None = None


@attrs.frozen
class PitChannel:
    """One counter of the 8254 timer, with the names of its data sheet."""

    count: int = 0x10000
    latched_count: int = 0
    count_latched: int = 0
    status_latched: int = 0
    status: int = 0
    read_state: int = 0
    write_state: int = 0
    write_latch: int = 0
    rw_mode: int = 0
    mode: int = 0
    bcd: int = 0
    gate: int = 0
    count_load_time: int = 0


@named("x86_64.Pit")
@attrs.frozen
class Pit(VmState):
    """The 8254 interval timer in the hypervisor, speaker port 0x61 included. `channels` of None: reset state."""

    channels: tuple[PitChannel, PitChannel, PitChannel] | None = None
    flags: int = 0


@named("x86_64.Clock")
@attrs.frozen
class Clock(VmState):
    """The paravirtual clock (kvmclock): nanoseconds since the VM was created, to go on from after a restore."""

    nanoseconds: int = 0
