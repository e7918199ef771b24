"""The two 8259A interrupt controllers of a PC, one behind the other.

Some facts about the 8259A (Intel data sheet 8259A; the PC's edge/level registers: 82371AB, 7.1.3). A request is a bit
in IRR; the one of highest priority that is not masked (IMR) and not below one in service (ISR) raises INT. The
processor answers with two INTA cycles, in which the chip moves the bit from IRR to ISR and gives the vector; an end of
interrupt (EOI) clears it from ISR. Writes to the first port are told apart by bits 4 and 3: ICW1 begins an
initialisation, which ICW2, ICW3 and ICW4 continue at the second port; OCW2 ends interrupts and turns priorities; OCW3
picks what reads give. The second chip's INT is input 2 of the first. When a request is gone before it is taken, the
vector is that of input 7, and ISR does not change.

Whether an input is edge- or level-triggered is said by a bit of its chip's ELCR and not by ICW1. Where the data sheet
leaves something open, or guests know it otherwise from other virtual machines (KVM's and QEMU's chips agree here):

- an edge is remembered in IRR even if the input falls again before it is taken;
- the chips are found with nothing masked and vectors from 0; ICW3 is taken and ignored, since the wiring is known;
- a poll that finds no request reads as 0.
"""

from __future__ import annotations

from anyvisor.device import DeviceContext
from anyvisor.interrupts import InterruptWiring
from anyvisor.plan import DeviceSpec
from anyvisor_pc.bytewide import NOTHING, ByteDevice

MASTER, SLAVE, ELCRS = 0x00, 0x80, (0x4B0, 0x4B1)
"""Offsets from port 0x20: each chip's command port, its data port being the next, and each chip's ELCR."""
INPUTS = 8
CASCADE = 2
SPURIOUS = 7
ALWAYS_EDGE = {MASTER: 0b0000_0111, SLAVE: 0b0010_0001}
"""Timer, keyboard and cascade; CMOS clock and FPU: these inputs have no level mode."""

# Initialisation command words.
ICW1, NO_CASCADE, NEEDS_ICW4 = 0x10, 0x02, 0x01
VECTOR_BITS = 0xF8
NESTED, AUTO_EOI = 0x10, 0x02

# Operation command words: rotate, specific level, end of interrupt; then OCW3.
ROTATE, SPECIFIC, EOI, LEVEL = 0x80, 0x40, 0x20, 0x07
OCW3, POLL, READ_REGISTER, READ_ISR, SET_SPECIAL_MASK, SPECIAL_MASK = 0x08, 0x04, 0x02, 0x01, 0x40, 0x20
REQUESTED = 0x80
"""In the answer to a poll: there is a request, and its input follows."""


def open_pic(spec: DeviceSpec, context: DeviceContext) -> PicPair:  # noqa: ARG001 - a factory's signature
    """The interrupt controllers that `spec` describes, wired to all lines and to the boot processor's INTR."""
    pair = PicPair(context.wiring)
    context.wiring.listen(pair.set_line)
    context.wiring.connect(pair)
    return pair


class Pic:
    """One 8259A, with the register names of its data sheet. Not locked: the pair is."""

    def __init__(self, always_edge: int):
        self._always_edge = always_edge
        self.elcr = 0
        self.lines = 0
        self.irr = 0
        self._initialise(0)
        self._awaited: tuple[int, ...] = ()

    def _initialise(self, icw1: int) -> None:
        """ICW1: everything begins anew, but level-triggered requests stay; edges are only seen from now on."""
        self._awaited = (2, *(() if icw1 & NO_CASCADE else (3,)), *((4,) if icw1 & NEEDS_ICW4 else ()))
        self._seen = 0
        self.irr &= self.elcr
        self.imr = self.isr = self.irq_base = self.priority_add = 0
        self.read_isr = self.poll = self.special_mask = False
        self.auto_eoi = self.rotate_on_auto_eoi = self.special_fully_nested_mode = False

    # -- requests ------------------------------------------------------------------------------------------

    def set_input(self, irq: int, level: bool) -> None:
        """Set the level of an input: a request while it is high, or when it rises."""
        bit = 1 << irq
        if not level:
            self.lines &= ~bit
            self._seen &= ~bit
            self.irr &= ~(bit & self.elcr)
            return
        if self.elcr & bit or not self._seen & bit:
            self.irr |= bit
        self.lines |= bit
        self._seen |= bit

    def request(self) -> int | None:
        """The input that INT is raised for now; None while it is not."""
        waiting = self.irr & ~self.imr
        if not waiting:
            return None
        in_service = self.isr & ~self.imr if self.special_mask else self.isr
        asked, served = self._first(waiting), self._first(in_service)
        if served is None or self._rank(asked) < self._rank(served):
            return asked
        return asked if asked == served == CASCADE and self.special_fully_nested_mode else None

    def accept(self, irq: int) -> None:
        """The INTA cycle for a request: it is in service now, or, with automatic EOI, done."""
        bit = 1 << irq
        self.irr &= ~bit | self.elcr
        if not self.auto_eoi:
            self.isr |= bit
        elif self.rotate_on_auto_eoi:
            self._make_lowest(irq)

    def _rank(self, irq: int | None) -> int:
        return INPUTS if irq is None else (irq - self.priority_add) % INPUTS

    def _first(self, bits: int) -> int | None:
        """The input of highest priority among `bits`."""
        if not bits:
            return None
        turned = (bits << INPUTS | bits) >> self.priority_add
        return ((turned & -turned).bit_length() - 1 + self.priority_add) % INPUTS

    def _make_lowest(self, irq: int) -> None:
        self.priority_add = (irq + 1) % INPUTS

    # -- registers -----------------------------------------------------------------------------------------

    def read(self, is_data: int) -> int:
        """IMR at the data port, IRR or ISR at the other."""
        return self.imr if is_data else self.isr if self.read_isr else self.irr

    def write(self, is_data: int, value: int) -> None:
        """A command word."""
        if is_data:
            self._write_data(value)
        elif value & ICW1:
            self._initialise(value)
        elif value & OCW3:
            self._select(value)
        else:
            self._operate(value)

    def write_elcr(self, value: int) -> None:
        """Which inputs are level-triggered."""
        self.elcr = value & ~self._always_edge
        self.irr = self.irr & ~self.elcr | self.lines & self.elcr

    def _write_data(self, value: int) -> None:
        if not self._awaited:
            self.imr = value
            return
        icw, *rest = self._awaited
        self._awaited = tuple(rest)
        if icw == 2:
            self.irq_base = value & VECTOR_BITS
        elif icw == 4:
            self.special_fully_nested_mode = bool(value & NESTED)
            self.auto_eoi = bool(value & AUTO_EOI)

    def _select(self, ocw3: int) -> None:
        if ocw3 & POLL:
            self.poll = True
        if ocw3 & READ_REGISTER:
            self.read_isr = bool(ocw3 & READ_ISR)
        if ocw3 & SET_SPECIAL_MASK:
            self.special_mask = bool(ocw3 & SPECIAL_MASK)

    def _operate(self, ocw2: int) -> None:
        """OCW2: end an interrupt, turn the priorities, or both."""
        if ocw2 & EOI:
            irq = ocw2 & LEVEL if ocw2 & SPECIFIC else self._ending()
            if irq is None:
                return
            self.isr &= ~(1 << irq)
            if ocw2 & ROTATE:
                self._make_lowest(irq)
        elif not ocw2 & SPECIFIC:
            self.rotate_on_auto_eoi = bool(ocw2 & ROTATE)
        elif ocw2 & ROTATE:
            self._make_lowest(ocw2 & LEVEL)

    def _ending(self) -> int | None:
        """What a nonspecific EOI ends: the first in service, leaving out what special mask mode hides."""
        return self._first(self.isr & ~self.imr if self.special_mask else self.isr)


class PicPair(ByteDevice):
    """Both chips, as an `InterruptSource`: lines 0 to 15 in, one INT out."""

    def __init__(self, wiring: InterruptWiring):
        super().__init__()
        self._wiring = wiring
        self.master, self.slave = Pic(ALWAYS_EDGE[MASTER]), Pic(ALWAYS_EDGE[SLAVE])
        self._chips = {MASTER: self.master, SLAVE: self.slave}
        self.pending = False
        """Whether INT is asserted."""

    def set_line(self, gsi: int, level: bool) -> None:
        """Set the level of an interrupt line. Line 2 is where the second chip is; those from 16 on are not ours."""
        if not 0 <= gsi < 2 * INPUTS or gsi == CASCADE:
            return
        with self._lock:
            (self.master if gsi < INPUTS else self.slave).set_input(gsi % INPUTS, level)
            self._update()

    def acknowledge(self) -> int:
        """The INTA cycles: the vector of the request that is taken, or of input 7 if it is gone."""
        with self._lock:
            irq = self.master.request()
            vector = self._take(self.master, irq)
            if irq == CASCADE:
                vector = self._take(self.slave, self.slave.request())
            self._update()
            return vector

    def read_byte(self, offset: int) -> int:
        """A register of one chip, or its answer to a poll."""
        if offset in ELCRS:
            return (self.master, self.slave)[ELCRS.index(offset)].elcr
        chip = self._chips.get(offset & ~1)
        if chip is None:
            return NOTHING
        return self._poll(chip) if chip.poll else chip.read(offset & 1)

    def write_byte(self, offset: int, value: int) -> None:
        """A command word for one chip."""
        if offset in ELCRS:
            (self.master, self.slave)[ELCRS.index(offset)].write_elcr(value)
        elif chip := self._chips.get(offset & ~1):
            chip.write(offset & 1, value)
        self._update()

    def _poll(self, chip: Pic) -> int:
        """The read after a poll command is the INTA cycle of software."""
        chip.poll = False
        irq = chip.request()
        if irq is None:
            return 0
        self._take(chip, irq)
        self._update()
        return REQUESTED | irq

    def _take(self, chip: Pic, irq: int | None) -> int:
        """Acknowledge a request at one chip, whose INT falls for the time of the cycle; the vector."""
        if irq is None:
            return chip.irq_base + SPURIOUS
        chip.accept(irq)
        if chip is self.slave:
            self.master.set_input(CASCADE, False)
        return chip.irq_base + irq

    def _update(self) -> None:
        """Bring both INT outputs in line with what is requested."""
        self.master.set_input(CASCADE, self.slave.request() is not None)
        before, self.pending = self.pending, self.master.request() is not None
        if self.pending and not before:
            self._wiring.notify()
