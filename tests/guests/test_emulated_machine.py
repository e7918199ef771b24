"""The tests that need real KVM, all in one boot of an emulated machine; and how that machine fails."""

from __future__ import annotations

from functools import partial

import debian
import plan_for_both
import pytest
from availability import available
from conversation import complaints, converse, shows_memory_map
from emulated import EmulatedMachine
from inner_results import problems, read_results
from run import LIMIT_SECONDS, SELECTION, fetch_inputs, run_inside

import anyvisor
from anyvisor.errors import GuestError
from anyvisor.plan import BootPlan

pytestmark = [pytest.mark.guest, pytest.mark.timeout(LIMIT_SECONDS + 60)]

ONE_OF_EACH = """
import pytest

def test_that_passes(): pass
def test_that_fails(): assert 6 * 7 == 54, "in base 13"
@pytest.mark.skip(reason="not today")
def test_that_is_skipped(): pass
"""


def run_and_show(arguments, share, show_inner_results):
    """The run, and its tests; they are in the terminal's summary too."""
    run = run_inside(arguments, share, show=partial(print, end=""))
    assert run.junit.exists(), f"pytest wrote no results inside:\n{run.output.read_text(errors='replace')}"
    tests = read_results(run.junit)
    show_inner_results(run, tests)
    return run, tests


@pytest.fixture(autouse=True, scope="module")
def machine_can_be_had():
    available(fetch_inputs)


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    """The directory that the run of all tests inside has shared with the emulated machine."""
    return tmp_path_factory.mktemp("share")


def test_every_test_inside_passes(share, show_inner_results):
    run, tests = run_and_show(SELECTION, share, show_inner_results)
    found = problems(tests)
    assert not found, "\n\n".join(["in the emulated machine:", *found])
    assert run.outcome.returncode == 0


def test_the_plan_that_booted_inside_on_kvm_boots_here_on_an_emulated_processor(share):
    saved = share / plan_for_both.PLAN
    assert saved.exists(), "inside/test_plan_for_both.py has left no plan: it runs with all tests inside"
    plan = BootPlan.from_json(saved.read_text())
    with anyvisor.open_hypervisor("unicorn") as unicorn, anyvisor.launch(plan, unicorn) as machine:
        machine.start()
        log = converse(machine, debian.cloud_kernel().version)
    assert not complaints(log)
    assert shows_memory_map(log)


def test_a_failure_inside_is_seen_outside(tmp_path, show_inner_results):
    (tmp_path / "test_one_of_each.py").write_text(ONE_OF_EACH)
    run, tests = run_and_show(["/share/test_one_of_each.py"], tmp_path, show_inner_results)
    assert run.outcome.returncode == 1
    assert [test.outcome for test in tests] == ["passed", "failure", "skipped"]
    failure, skip = problems(tests)
    assert "in base 13" in failure
    assert "not today" in skip


def test_a_job_sees_the_directories_that_it_needs_and_its_status_comes_back(tmp_path):
    below_tmp = tmp_path / "needed"
    below_tmp.mkdir()
    (below_tmp / "file").touch()
    job = f"test -e {below_tmp}/file && ! touch {below_tmp}/file && ! test -e {tmp_path}/job && exit 42"
    with EmulatedMachine(tmp_path, job, visible=[below_tmp]) as machine:
        assert machine.wait(60).returncode == 42


def test_a_machine_that_hangs_is_killed_at_its_limit(tmp_path):
    hang = tmp_path / "init"
    hang.write_text("#!/bin/busybox sh\necho hanging\nexec /bin/busybox sleep 100000\n")
    machine = EmulatedMachine(tmp_path, "exit 0", init=hang)
    with machine, pytest.raises(GuestError, match=r"still running after 6 s(.|\n)*hanging"):
        machine.wait(6)
    assert not machine.running


def test_a_machine_whose_init_dies_is_reported_with_its_last_words(tmp_path):
    death = tmp_path / "init"
    death.write_text("#!/bin/busybox sh\nexit 3\n")
    last_words = r"without a result(.|\n)*Attempted to kill init! exitcode=0x00000300"
    with (
        EmulatedMachine(tmp_path, "exit 0", init=death) as machine,
        pytest.raises(GuestError, match=last_words),
    ):
        machine.wait(60)


def test_leaving_early_kills_the_machine(tmp_path):
    machine = EmulatedMachine(tmp_path, "exit 0")
    with pytest.raises(KeyboardInterrupt), machine:
        raise KeyboardInterrupt if machine.running else AssertionError("QEMU did not start")
    assert not machine.running
    machine.close()
