"""The wiring between devices, interrupt controllers and the processor."""

from anyvisor.interrupts import InterruptWiring


class Source:
    pending = False

    def acknowledge(self) -> int:
        return 0x20


class Wired:
    """Wiring that notes what goes where."""

    def __init__(self):
        self.elsewhere: list[tuple[int, bool]] = []
        self.pins: list[Source] = []
        self.notices = 0
        self.wiring = InterruptWiring(
            lambda gsi, level: self.elsewhere.append((gsi, level)), self.pins.append, self._notice
        )

    def _notice(self) -> None:
        self.notices += 1


def test_lines_lead_to_the_hypervisor_as_long_as_nobody_listens():
    wired = Wired()
    set_level = wired.wiring.line(4)
    set_level(True)
    set_level(False)
    assert wired.elsewhere == [(4, True), (4, False)]


def test_listeners_take_over_lines_that_were_given_out_before():
    wired, heard = Wired(), []
    set_level = wired.wiring.line(4)
    wired.wiring.listen(lambda gsi, level: heard.append((gsi, level)))
    set_level(True)
    assert heard == [(4, True)]
    assert wired.elsewhere == []


def test_every_listener_hears_every_line_in_the_order_in_which_they_came():
    wired, heard = Wired(), []
    for name in ("pic", "ioapic"):
        wired.wiring.listen(lambda gsi, level, name=name: heard.append((name, gsi, level)))
    wired.wiring.line(1)(True)
    wired.wiring.line(23)(False)
    assert heard == [("pic", 1, True), ("ioapic", 1, True), ("pic", 23, False), ("ioapic", 23, False)]


def test_the_pin_is_wired_to_the_last_source_which_finds_the_one_before_it():
    wired, first, second = Wired(), Source(), Source()
    assert wired.wiring.source is None
    wired.wiring.connect(first)
    assert wired.wiring.source is first
    wired.wiring.connect(second)
    assert wired.wiring.source is second
    assert wired.pins == [first, second]


def test_a_source_that_the_processor_refuses_is_not_wired():
    def refuse(source):
        raise LookupError("this one has its own")

    wiring = InterruptWiring(lambda gsi, level: None, refuse, lambda: None)
    try:
        wiring.connect(Source())
    except LookupError:
        assert wiring.source is None
    else:
        raise AssertionError("the refusal was swallowed")


def test_notices_go_to_the_processor():
    wired = Wired()
    wired.wiring.notify()
    wired.wiring.notify()
    assert wired.notices == 2
