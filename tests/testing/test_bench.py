"""The bench: it runs what it is given, skips what a backend cannot run, and tells of a guest that never ends."""

import attrs
import pytest

from anyvisor import open_hypervisor
from anyvisor.acts import Halt, PortOut
from anyvisor.errors import AnyvisorError, HypervisorError, Unsupported
from anyvisor.exits import Halted, Kicked
from anyvisor.states import VmState
from anyvisor.testing import bench as bench_module
from anyvisor.testing.bench import CODE, MMIO, PORTS, Bench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.watch import Held, until
from anyvisor.x86_64.chips import Pit
from anyvisor.x86_64.state import Regs

Failed, Skipped = pytest.fail.Exception, pytest.skip.Exception


class Strange(VmState):
    """A state that no backend has."""


@pytest.fixture
def mock():
    with open_hypervisor("mock") as hypervisor:
        yield hypervisor


@pytest.fixture
def emulated():
    with open_hypervisor("unicorn") as hypervisor:
        yield hypervisor


def test_a_guest_is_entered_at_its_code_with_its_registers(emulated):
    with Bench(emulated) as made:
        made.enter(made.guests.HALT, rbx=0x1234)
        regs = made.vcpu.get(Regs)
        assert (regs.rip, regs.rbx, made.memory.read(CODE, 1)) == (CODE, 0x1234, b"\xf4")
        assert made.run() == Halted()


def test_a_backend_that_executes_nothing_is_played_the_guest(mock):
    with Bench(mock) as made:
        made.enter(made.guests.OUT_42)
        assert made.run() == Halted()
        assert made.ports.writes == [(0, 1, 42)]
        assert made.play((PortOut(PORTS.start, 1, 7), Halt()))
        assert made.run() == Halted()
        assert made.ports.values == [42, 7]


def test_one_that_executes_code_is_not(emulated):
    with Bench(emulated) as made:
        assert not made.play((Halt(),))


def test_a_guest_without_acts_is_skipped_where_nothing_is_executed(mock):
    with Bench(mock) as made, pytest.raises(Skipped, match="needs the processor mode real; the mock backend has not"):
        made.enter(TinyGuest({"real": b"\xf4"}))


def test_a_mode_that_a_backend_has_not_is_skipped_by_name(emulated):
    with Bench(emulated) as made:
        made.facts = attrs.evolve(made.facts, modes=("real",))
        with pytest.raises(Skipped, match="needs the processor mode long"):
            made.enter(made.guests.HALT, "long")
        made.enter(made.guests.HALT)
        assert made.run() == Halted()


def test_only_basic_guests_run_without_a_full_processor(emulated):
    with Bench(emulated) as made:
        made.facts = attrs.evolve(made.facts, capabilities=frozenset())
        made.enter(made.guests.HALT)
        with pytest.raises(Skipped, match="needs full-processor"):
            made.enter(made.guests_of("running").COUNT)


def test_a_guest_that_does_not_end_fails_the_test_with_what_it_last_wrote(emulated, monkeypatch):
    monkeypatch.setattr(bench_module, "PATIENCE_SECONDS", 0.1)
    with Bench(emulated) as made:
        made.enter(made.guests.OUT_42_THEN_SPIN)
        with pytest.raises(Failed, match=r"did not end within 0.1 s \(a kick ended it\); last writes: ports.*42"):
            made.run()


def test_closing_ends_what_runs_and_gives_all_back(emulated):
    with Bench(emulated) as warm:
        warm.enter(warm.guests.HALT)
        warm.run()
    before = Held.now()
    made = Bench(emulated)
    made.enter(made.guests.OUT_42_THEN_SPIN)
    underway = made.start()
    until(lambda: made.ports.writes, "the guest's first OUT")
    made.close()
    made.close()
    assert underway.result() == Kicked()
    assert not made.memory.regions
    assert Held.now().gained_since(before) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"states": (Strange(),)}, Unsupported),
        ({"deterministic": True}, Unsupported),
        ({"states": (Pit(),)}, HypervisorError),
    ],
)
def test_what_cannot_be_made_leaves_nothing(mock, options, error):
    with Bench(mock):
        pass
    before = Held.now()
    with pytest.raises(AnyvisorError) as raised:
        Bench(mock, **options)
    assert type(raised.value) is error
    assert Held.now().gained_since(before) == []


def test_the_devices_are_where_the_bench_says(emulated):
    with Bench(emulated) as made:
        made.bus.write_port(PORTS.start + 3, 1, 5)
        made.bus.write_mmio(MMIO.start + 8, 4, 6)
        assert (made.ports.writes, made.mmio.writes) == ([(3, 1, 5)], [(8, 4, 6)])
        made.others.answers.append(9)
        assert made.bus.read_port(bench_module.OTHER_PORTS.start, 1) == 9
