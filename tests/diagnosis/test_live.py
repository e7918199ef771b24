"""A look at a live machine: it stands still for as long as that takes, and goes on as it was."""

import threading
import time

import pytest

from anyvisor.acts import PortIn
from anyvisor.diagnosis.live import watch
from anyvisor.errors import GuestError
from anyvisor.exits import Halted, Shutdown
from anyvisor.launch import launch
from anyvisor.memory import MIB, Region
from anyvisor.outcome import Phase
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.x86_64.state import Regs
from anyvisor_mock import MockHypervisor

RAM = (Region(0, 2 * MIB, "RAM"),)


def machine(*scripts, vcpus=1, **more):
    """A machine on the mock; a vCPU without a script spins until it is kicked."""
    plan = BootPlan("x86_64", RAM, vcpus=tuple(VcpuPlan(index, ()) for index in range(vcpus)))
    return launch(plan, MockHypervisor(script=scripts), **more)


def test_a_running_machine_is_shown_and_goes_on():
    with machine(vcpus=2) as made:
        made.start()
        seen = made.inspect()
        assert made.phase is Phase.RUNNING
        assert (seen.phase, [each.vcpu for each in seen.reports]) == ("running", [0, 1])
        assert [each.section("Registers") is not None for each in seen.reports] == [True, True]
        assert made.stop().reason == "stopped"


def test_the_page_shows_every_vcpu_and_what_they_share_once():
    with machine(vcpus=3) as made:
        made.start()
        page = str(made.inspect())
        assert page.startswith("The machine is running, with 3 vCPU(s).\n\n")
        assert [page.count(f"vCPU {index} is looked at") for index in range(3)] == [1, 1, 1]
        assert page.count("\nSegments\n") == 1


def test_a_machine_that_does_not_run_stays_as_it_is():
    with machine([Halted()]) as made:
        assert made.inspect().phase == "ready"
        assert made.phase is Phase.READY
        made.start().wait(5)
        assert made.inspect().phase == "stopped"
    with machine() as made:
        made.start().pause()
        assert made.inspect().phase == "paused"
        assert made.phase is Phase.PAUSED


def test_of_a_machine_that_died_the_death_is_shown():
    with machine([Shutdown()]) as made:
        with pytest.raises(GuestError):
            made.start().wait(5)
        assert "died: triple fault" in made.inspect().reports[0].summary


def test_the_last_exits_are_shown():
    with machine([PortIn(0x64, 1)] * 3) as made:
        made.start()
        wait_until(lambda: made.flight[0].count == 3)
        (report,) = made.inspect().reports
        assert "port 0x64 -> 0xff" in report.section("Last exits").text


def test_a_vcpu_that_does_not_answer_is_told_and_nothing_is_broken():
    entered, released = threading.Event(), threading.Event()

    def busy(bus):
        entered.set()
        released.wait(10)

    with machine([busy]) as made:
        made.start()
        entered.wait(5)
        with pytest.raises(GuestError, match=r"did not pause within 0\.1 seconds: 1 vCPU"):
            made.inspect(timeout=0.1)
        assert made.phase is Phase.RUNNING
        released.set()
        assert made.inspect().phase == "running"
        assert made.stop().reason == "stopped"


def test_a_vcpu_cannot_look_at_its_own_machine():
    holder = []
    with machine([lambda bus: holder[0].inspect()]) as made:
        holder.append(made)
        with pytest.raises(GuestError, match="cannot be held from a thread of its own vCPUs"):
            made.start().wait(5)


def test_no_vcpu_runs_in_a_block_that_holds_it():
    count = [0]

    def work(bus):
        count[0] += 1
        time.sleep(0.0005)

    with machine([work] * 100_000) as made:
        made.start()
        for _ in range(10):
            with made.held():
                before = count[0]
                time.sleep(0.005)
                assert count[0] == before
            wait_until(lambda: count[0] > before)  # noqa: B023 - called at once
        made.stop()


def test_a_pause_while_it_is_held_outlasts_the_block():
    with machine() as made:
        made.start()
        with made.held():
            made.pause()
        assert made.phase is Phase.PAUSED
        made.resume()
        assert made.phase is Phase.RUNNING


def test_a_resume_while_it_is_held_counts_behind_the_block():
    with machine() as made:
        made.start().pause()
        with made.held():
            made.resume()
            assert made.phase is Phase.PAUSED
        assert made.phase is Phase.RUNNING


def test_blocks_that_overlap_hold_it_until_the_last_ends():
    with machine() as made:
        made.start()
        with made.held():
            with made.held():
                pass
            assert made.phase is Phase.PAUSED
        assert made.phase is Phase.RUNNING


def test_a_machine_that_is_started_while_it_is_held_begins_behind_the_block():
    ran = threading.Event()
    with machine([lambda bus: ran.set()]) as made:
        with made.held():
            made.start()
            assert not ran.wait(0.05)
        assert ran.wait(5)


def test_a_machine_that_ends_while_it_is_held_ends():
    with machine() as made:
        made.start()
        with made.held():
            made.request_stop("reset")
        assert made.wait(5).reason == "reset"


def test_many_may_look_at_once():
    failures = []
    with machine(vcpus=2) as made:
        made.start()

        def look():
            for _ in range(5):
                failures.extend(note for each in made.inspect().reports for note in each.notes)

        lookers = [threading.Thread(target=look) for _ in range(4)]
        for each in lookers:
            each.start()
        for each in lookers:
            each.join(20)
        assert failures == []
        assert made.phase is Phase.RUNNING


def test_a_machine_is_watched_for_its_rips_and_exits():
    with machine([PortIn(0x64, 1)] * 5, [], vcpus=2) as made:
        made.start()
        wait_until(lambda: made.flight[0].count == 5)
        first, second = watch(made, samples=4, interval_seconds=0.001)
        assert (first.rips, first.watched_exits, len(first.last_exits)) == ((0xFFF0,) * 4, 0, 5)
        assert (second.vcpu, second.rips) == (1, (0xFFF0,) * 4)
        assert made.phase is Phase.RUNNING


def test_the_exits_of_a_machine_that_is_watched_are_counted():
    with machine([PortIn(0x64, 1), lambda bus: time.sleep(0.001)] * 10_000) as made:
        made.start()
        (evidence,) = watch(made, samples=3, interval_seconds=0.01)
        assert 0 < evidence.watched_exits < 200
        made.stop()


def test_without_a_flight_recorder_nothing_is_said_of_exits():
    with machine(keep_exits=0) as made:
        made.start()
        assert watch(made, samples=2, interval_seconds=0)[0].watched_exits is None


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_machine_that_is_closed_cannot_be_looked_at():
    made = machine()
    made.start()
    made.close()
    with pytest.raises(GuestError, match="cannot be held: it is closed"):
        made.inspect()


def test_nothing_is_given_back_while_another_thread_holds_it():
    held, let_go = threading.Event(), threading.Event()
    made = machine()
    made.start()

    def hold():
        with made.held():
            held.set()
            let_go.wait(10)
            assert made.memory.read(0, 1) == b"\0"
            found.append(made.vcpus[0].get(Regs))

    found = []
    holder, closer = threading.Thread(target=hold), threading.Thread(target=made.close)
    holder.start()
    assert held.wait(5)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive() and made.memory.regions
    let_go.set()
    for each in (holder, closer):
        each.join(5)
    assert found and not made.memory.regions


def test_who_holds_it_for_too_long_is_told_of_and_close_can_be_called_again(monkeypatch):
    monkeypatch.setattr("anyvisor.machine.STOP_SECONDS", 0.05)
    held, let_go = threading.Event(), threading.Event()
    made = machine()

    def hold():
        with made.held():
            held.set()
            let_go.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(5)
    with pytest.raises(GuestError, match=r"did not close within 0\.05 seconds: another thread still holds it"):
        made.close()
    assert made.memory.regions
    let_go.set()
    holder.join(5)
    made.close()
    assert not made.memory.regions


def test_who_holds_a_machine_may_close_it():
    made = machine()
    made.start()
    with made.held():
        made.close()
    assert not made.memory.regions


def test_what_is_shown_is_one_moment_of_a_guest_that_goes_on(monkeypatch):
    phases = []
    with machine() as made:
        made.start()
        reading = made.memory.read
        monkeypatch.setattr(made.memory, "read", lambda *place: phases.append(made.phase) or reading(*place))
        made.inspect()
    assert set(phases) == {Phase.PAUSED}
