"""The 8259A pair as an interrupt source: vectors, INTA cycles, and what QEMU's does otherwise than the data sheet."""

import threading

import pytest
from pc_context import Bench

from anyvisor.interrupts import InterruptWiring
from anyvisor_pc.pic import PicPair, open_pic
from anyvisor_pc.specs import PIC

MASTER, SLAVE = 0x20, 0xA0
EOI, ROTATE_EOI = 0x20, 0xA0


class Pics:
    def __init__(self):
        self.bench = Bench(open_pic, PIC)
        self.pair = self.bench.device
        self.out = self.bench.outb
        self.initialise()

    def initialise(self, master_icw4: int = 0x01, slave_icw4: int = 0x01) -> None:
        for chip, base, wiring, icw4 in ((MASTER, 0x30, 4, master_icw4), (SLAVE, 0x38, 2, slave_icw4)):
            for port, value in ((chip, 0x11), (chip + 1, base), (chip + 1, wiring), (chip + 1, icw4)):
                self.out(port, value)

    def line(self, gsi: int, level: bool) -> None:
        self.bench.wiring.line(gsi)(level)

    def pulse(self, *gsis: int) -> None:
        for gsi in gsis:
            self.line(gsi, True)
            self.line(gsi, False)

    def registers(self, chip: int) -> tuple[int, int]:
        """IRR and ISR."""
        both = []
        for choice in (0x0A, 0x0B):
            self.out(chip, choice)
            both.append(self.bench.inb(chip))
        return both[0], both[1]

    def take_all(self) -> list[int]:
        vectors = []
        while self.pair.pending:
            vectors.append(self.pair.acknowledge())
            self.out(MASTER, EOI)
            if vectors[-1] >= 0x38:
                self.out(SLAVE, EOI)
        return vectors


@pytest.fixture
def pics():
    pics = Pics()
    yield pics
    pics.bench.close()


def test_it_is_the_processors_interrupt_source_and_sees_the_lines(pics):
    assert pics.bench.wiring.source is pics.pair
    assert not pics.pair.pending
    pics.line(4, True)
    assert pics.pair.pending
    assert pics.pair.acknowledge() == 0x34
    assert not pics.pair.pending


def test_the_processor_is_told_once_for_each_rise_of_intr(pics):
    assert pics.bench.notes == 0
    pics.line(4, True)
    pics.line(5, True)
    pics.line(14, True)
    assert pics.bench.notes == 1
    pics.pair.acknowledge()
    assert pics.bench.notes == 1, "line 14 is of higher priority and pending still"
    pics.pair.acknowledge()
    pics.out(MASTER, EOI)
    pics.out(SLAVE, EOI)
    pics.out(MASTER, EOI)
    assert pics.bench.notes == 2


def test_pending_is_true_before_the_processor_is_told():
    seen = []
    wiring = InterruptWiring(lambda gsi, level: None, lambda source: None, lambda: seen.append(pair.pending))
    pair = PicPair(wiring)
    pair.set_line(3, True)
    assert seen == [True]


def test_masked_requests_wait_in_irr(pics):
    pics.out(0x21, 0x10)
    pics.pulse(4)
    assert not pics.pair.pending
    assert pics.registers(MASTER) == (0x10, 0)
    pics.out(0x21, 0x00)
    assert pics.pair.acknowledge() == 0x34
    assert pics.registers(MASTER) == (0, 0x10)


def test_every_line_has_its_vector_and_line_2_none(pics):
    vectors = []
    for gsi in range(-1, 24):
        pics.pulse(gsi)
        vectors += pics.take_all()
    assert vectors == [0x30, 0x31, *range(0x33, 0x40)]


def test_priorities_are_those_of_a_pc(pics):
    for gsi in range(15, -1, -1):
        if gsi != 2:
            pics.line(gsi, True)
    assert pics.take_all() == [0x30, 0x31, *range(0x38, 0x40), *range(0x33, 0x38)]


def test_interrupts_nest_only_upwards(pics):
    pics.pulse(3)
    pics.pair.acknowledge()
    pics.pulse(4)
    assert not pics.pair.pending
    pics.pulse(1)
    assert pics.pair.acknowledge() == 0x31
    pics.out(MASTER, EOI)
    assert not pics.pair.pending
    pics.out(MASTER, EOI)
    assert pics.pair.acknowledge() == 0x34


def test_a_request_that_is_gone_gives_the_vector_of_input_7_and_no_service(pics):
    assert pics.pair.acknowledge() == 0x37
    assert pics.registers(MASTER) == (0, 0)
    pics.line(5, True)
    pics.out(0x21, 0xFF)
    assert pics.pair.acknowledge() == 0x37
    assert pics.registers(MASTER) == (0x20, 0)


def test_a_request_that_is_gone_at_the_second_chip_gives_its_input_7(pics):
    pics.line(10, True)
    pics.out(0xA1, 0xFF)
    assert pics.pair.pending, "the first chip remembers the rise of the second one's INT"
    assert pics.pair.acknowledge() == 0x3F
    assert pics.registers(SLAVE) == (0x04, 0)
    assert pics.registers(MASTER) == (0, 0x04), "which wants an end of interrupt"


def test_a_level_triggered_line_asks_until_it_falls(pics):
    pics.out(0x4D1, 0x08)
    pics.line(11, True)
    assert pics.pair.acknowledge() == 0x3B
    pics.out(SLAVE, EOI)
    pics.out(MASTER, EOI)
    assert pics.pair.acknowledge() == 0x3B
    pics.line(11, False)
    pics.out(SLAVE, EOI)
    pics.out(MASTER, EOI)
    assert not pics.pair.pending


def test_a_level_triggered_request_falls_with_its_line_and_an_edge_does_not(pics):
    pics.out(0x4D0, 0x20)
    pics.pulse(5)
    assert not pics.pair.pending
    pics.pulse(6)
    assert pics.pair.acknowledge() == 0x36


def test_elcr_counts_at_once_for_a_line_that_is_high(pics):
    pics.line(5, True)
    pics.pair.acknowledge()
    pics.out(MASTER, EOI)
    assert not pics.pair.pending
    pics.out(0x4D0, 0x20)
    assert pics.pair.pending


def test_elcr_has_no_bits_for_the_old_chips_lines(pics):
    pics.out(0x4D0, 0xFF)
    pics.out(0x4D1, 0xFF)
    assert (pics.bench.inb(0x4D0), pics.bench.inb(0x4D1)) == (0xF8, 0xDE)


def test_an_edge_that_stays_high_is_one_request(pics):
    pics.line(4, True)
    pics.line(4, True)
    assert pics.take_all() == [0x34]
    pics.line(4, True)
    assert pics.take_all() == []


def test_automatic_eoi_leaves_nothing_in_service(pics):
    pics.initialise(master_icw4=0x03)
    pics.pulse(3, 4)
    assert [pics.pair.acknowledge() for _ in range(2)] == [0x33, 0x34]
    assert pics.registers(MASTER) == (0, 0)


def test_automatic_eoi_rotates_when_told(pics):
    pics.initialise(master_icw4=0x03)
    pics.out(MASTER, 0x80)
    pics.pulse(3)
    pics.pair.acknowledge()
    pics.pulse(1, 3, 4)
    assert [pics.pair.acknowledge() for _ in range(3)] == [0x34, 0x31, 0x33]


def test_automatic_eoi_of_the_second_chip_loses_no_request(pics):
    """QEMU keeps the second chip's INT high here, and the first one sees no edge."""
    pics.initialise(slave_icw4=0x03)
    pics.pulse(8, 9)
    taken = []
    for _ in range(2):
        assert pics.pair.pending
        taken.append(pics.pair.acknowledge())
        pics.out(MASTER, EOI)
    assert taken == [0x38, 0x39]


def test_special_mask_mode_lets_lower_requests_through_and_hides_what_is_masked_from_eoi(pics):
    pics.pulse(3)
    pics.pair.acknowledge()
    pics.out(0x21, 0x08)
    pics.out(MASTER, 0x68)
    pics.pulse(5)
    assert pics.pair.acknowledge() == 0x35
    pics.out(MASTER, EOI)
    assert pics.registers(MASTER) == (0, 0x08)
    pics.out(MASTER, EOI)
    assert pics.registers(MASTER) == (0, 0x08), "QEMU ends the masked one"
    pics.out(MASTER, 0x63)
    assert pics.registers(MASTER) == (0, 0)


def test_special_fully_nested_mode_lets_the_second_chip_interrupt_itself_and_nothing_lower(pics):
    pics.initialise(master_icw4=0x11)
    pics.pulse(12)
    assert pics.pair.acknowledge() == 0x3C
    pics.pulse(3)
    assert not pics.pair.pending, "QEMU lets line 3 through"
    pics.pulse(13)
    assert not pics.pair.pending
    pics.pulse(9)
    assert pics.pair.acknowledge() == 0x39
    pics.initialise()
    pics.pulse(12)
    pics.pair.acknowledge()
    pics.pulse(9)
    assert not pics.pair.pending, "fully nested mode does not"


def test_a_poll_is_an_acknowledge(pics):
    pics.pulse(12)
    pics.out(MASTER, 0x0C)
    assert pics.bench.inb(MASTER) == 0x82
    pics.out(SLAVE, 0x0C)
    assert pics.bench.inb(SLAVE) == 0x84
    assert pics.registers(SLAVE) == (0, 0x10)
    assert not pics.pair.pending
    pics.out(MASTER, 0x0C)
    assert pics.bench.inb(MASTER) == 0x00
    assert pics.registers(MASTER) == (0, 0x04)


def test_an_initialisation_forgets_edges_and_keeps_levels(pics):
    pics.out(0x4D0, 0x20)
    pics.line(4, True)
    pics.line(5, True)
    pics.out(MASTER, 0x11)
    assert pics.registers(MASTER) == (0x20, 0)


def test_a_request_of_the_second_chip_outlives_an_initialisation_of_the_first(pics):
    """As in KVM; by the data sheet it would have to fall and rise first."""
    pics.line(12, True)
    for port, value in ((MASTER, 0x11), (MASTER + 1, 0x40), (MASTER + 1, 4), (MASTER + 1, 1)):
        pics.out(port, value)
    assert pics.pair.pending
    assert pics.pair.acknowledge() == 0x3C


def test_nothing_answers_between_the_ports(pics):
    assert pics.bench.bus.read_port(0x22, 1) == 0xFF
    assert pics.pair.read(2, 1) == pics.pair.read(0x10, 1) == 0xFF
    pics.pair.write(0x10, 1, 0xFF)
    pics.out(0x21, 0x5A)
    assert pics.bench.bus.read_port(0x20, 2) == 0x5A00


def test_lines_from_several_threads_lose_nothing(pics):
    """Each thread raises its own line only after the last request on it was taken."""
    gsis, each = (1, 4, 9, 14), 300
    taken = dict.fromkeys(gsis, 0)
    gates = {gsi: threading.Semaphore(1) for gsi in gsis}

    def raise_often(gsi: int) -> None:
        for _ in range(each):
            assert gates[gsi].acquire(timeout=20)
            pics.pulse(gsi)

    threads = [threading.Thread(target=raise_often, args=(gsi,)) for gsi in gsis]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or pics.pair.pending:
        for vector in pics.take_all():
            taken[vector - 0x30] += 1
            gates[vector - 0x30].release()
    for thread in threads:
        thread.join()
    assert taken == dict.fromkeys(gsis, each)
