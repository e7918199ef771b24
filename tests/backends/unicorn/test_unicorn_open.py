"""Opening: what is missing is said, and what is not vouched for is run the safe way."""

import re
import subprocess
import sys
import textwrap

import pytest
from emulated_guests import HALT, Guest

from anyvisor.errors import HypervisorError, HypervisorUnavailable, Unsupported
from anyvisor.exits import Halted
from anyvisor.facts import Capability
from anyvisor.plugins import PluginWarning
from anyvisor_unicorn import hypervisor, proof
from anyvisor_unicorn.guests import Disproof
from anyvisor_unicorn.hypervisor import open_unicorn
from anyvisor_unicorn.pace import CountedPace, FreePace

REMEDY = "pip install 'anyvisor[unicorn]'"


@pytest.fixture
def unproven(monkeypatch):
    """Forget what was proven, before and after."""
    proof.prove.cache_clear()
    hypervisor._warn.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    proof.prove.cache_clear()
    hypervisor._warn.cache_clear()


def disprove(*_):
    raise Disproof("the engine is another one")


def alone(code):
    """Run a program in a process of its own; its output."""
    return program(code, check=True).stdout


def program(code, *, check):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60)


BLOCK = """
    import sys
    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "unicorn":
                raise ModuleNotFoundError("No module named 'unicorn'", name="unicorn")
    sys.meta_path.insert(0, Blocked())
"""


def test_without_unicorn_it_is_unavailable_and_says_what_to_install():
    said = alone(BLOCK + """
    from anyvisor.errors import HypervisorUnavailable
    from anyvisor_unicorn.hypervisor import open_unicorn
    try:
        open_unicorn()
    except HypervisorUnavailable as error:
        print(error.reason, error.remedy, sep="|")
    """)  # fmt: skip
    assert said == f"the emulated processor is not installed (No module named 'unicorn')|{REMEDY}\n"


def test_without_unicorn_the_list_of_backends_says_so_and_auto_goes_by():
    said = alone(BLOCK + """
    from anyvisor.backends import hypervisors, open_hypervisor
    from anyvisor.errors import HypervisorUnavailable
    for each in hypervisors():
        if each.name == "unicorn":
            print(each.available, each.remedy)
    try:
        print(open_hypervisor("auto").facts.backend != "unicorn")
    except HypervisorUnavailable as error:
        print("unicorn" in str(error))
    """)  # fmt: skip
    assert said == f"False {REMEDY}\nTrue\n"


def test_the_backend_is_listed_without_importing_unicorn():
    assert alone("""
        import sys
        import anyvisor_unicorn
        import anyvisor_unicorn.hypervisor
        print(anyvisor_unicorn.anyvisor_hypervisors(), "unicorn" in sys.modules)
    """).strip() == "{'unicorn': 'anyvisor_unicorn.hypervisor:open_unicorn'} False"  # fmt: skip


def test_a_unicorn_of_another_layout_is_unavailable(unproven):
    unproven.setattr(proof, "prove_layout", disprove)
    with pytest.raises(
        HypervisorUnavailable, match=r"unicorn [\d.]+: the engine is another one; pip install"
    ) as caught:
        open_unicorn()
    assert caught.value.remedy == REMEDY


@pytest.mark.parametrize("error", [HypervisorError("uc_ctl", 22), IndexError("index out of bounds")])
def test_a_unicorn_that_cannot_even_be_asked_is_unavailable(unproven, error):
    def fail():
        raise error

    unproven.setattr(proof, "prove_layout", fail)
    with pytest.raises(HypervisorUnavailable):
        open_unicorn()


def test_a_unicorn_that_can_neither_be_stopped_nor_counted_is_unavailable(unproven):
    unproven.setattr(proof, "find_exit_flag", disprove)
    unproven.setattr(proof, "find_counter", disprove)
    for mode in (None, "fast", "counted"):
        with pytest.raises(HypervisorUnavailable):
            open_unicorn(mode)


# -- the safe mode -----------------------------------------------------------------------------------------------------


def runs_counted(opened):
    made = Guest(opened, f"incq DATA; {HALT}")
    assert made.run() == Halted()
    assert made.word() == 1
    pace = made.vcpu._pace
    made.close()
    return isinstance(pace, CountedPace)


@pytest.mark.parametrize("step", ["find_exit_flag", "prove_stops_are_exact", "find_halt_flag"])
def test_one_that_is_not_vouched_for_is_counted_and_warns_once(unproven, step):
    unproven.setattr(proof, step, disprove)
    cause = "counted: a third as fast, and safe, since the engine is another one"
    with pytest.warns(PluginWarning, match=cause) as seen:
        opened = [open_unicorn() for _ in range(3)][-1]
    assert len(seen) == 1
    assert runs_counted(opened)
    opened.close()
    (note,) = opened.facts.notes
    assert re.fullmatch(r"unicorn [\d.]+, counted: a third as fast, and safe, since the engine is another one", note)


def test_one_that_is_not_vouched_for_refuses_to_be_fast(unproven):
    unproven.setattr(proof, "find_exit_flag", disprove)
    with pytest.raises(HypervisorUnavailable, match="cannot run freely: the engine is another one; leave out the mode"):
        open_unicorn("fast")


@pytest.mark.filterwarnings("error")
def test_who_asks_for_the_counted_mode_is_not_warned(unproven):
    unproven.setattr(proof, "find_exit_flag", disprove)
    with open_unicorn("counted") as opened:
        assert runs_counted(opened)


@pytest.mark.filterwarnings("ignore::anyvisor.plugins.PluginWarning")
def test_one_that_is_not_vouched_for_is_deterministic_all_the_same(unproven):
    unproven.setattr(proof, "find_exit_flag", disprove)
    with open_unicorn() as opened:
        assert opened.facts.has(Capability.DETERMINISTIC)


def test_one_that_does_not_show_its_count_is_fast_and_not_deterministic(unproven):
    unproven.setattr(proof, "find_counter", disprove)
    with open_unicorn() as opened:
        assert not opened.facts.has(Capability.DETERMINISTIC)
        with pytest.raises(Unsupported, match="deterministic"):
            opened.create_vm(deterministic=True)
        vm = opened.create_vm()
        assert isinstance(vm.create_vcpu(0)._pace, FreePace)
    with pytest.raises(HypervisorUnavailable, match="does not say how many instructions it has run"):
        open_unicorn("counted")


def test_doctor_shows_the_note(unproven):
    import click
    from click.testing import CliRunner

    from anyvisor.cli import cli
    from anyvisor.cli.doctor import doctor

    parent = click.Context(cli, **cli.context_settings)  # click keeps the help option of the first context
    unproven.setattr(proof, "find_exit_flag", disprove)
    with pytest.warns(PluginWarning):
        shown = CliRunner().invoke(doctor, parent=parent)
    assert "counted: a third as fast, and safe, since the engine is another one" in shown.output


def test_on_the_command_line_the_warning_is_one_line():
    said = program("""
        from anyvisor_unicorn import proof
        from anyvisor_unicorn.guests import Disproof
        def disprove(*_):
            raise Disproof("the engine is another one")
        proof.find_exit_flag = disprove
        from anyvisor.cli import cli
        cli.main(["backends"])
    """, check=False)  # fmt: skip
    lines = [line for line in said.stderr.splitlines() if "anyvisor: warning: unicorn" in line]
    assert len(lines) == 1, said.stderr
    assert lines[0].endswith(f"since the engine is another one; {REMEDY}")
