"""The tests of a boot step, tested: a good plugin passes all of them, and each way to be wrong fails with its name.

Every plugin is a test module of its own; one pytest, in a process of its own, runs them all.
"""

import fnmatch
import subprocess
import sys
import textwrap
from xml.etree import ElementTree

import pytest
from step_faults import FAULTS, GOOD, GOOD_CHANGES

from anyvisor.testing import steps

SECONDS = 150

pytestmark = pytest.mark.timeout(180)

HEADER = """
import os, threading
import attrs
import pytest
from anyvisor import DeviceSpec, MachineConfig, generic_facts, hookimpl
from anyvisor.memory import Region
from anyvisor.states import Change
from anyvisor.testing.steps import StepTests
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.gdt import BOOT_GDT, BYTE, Gdt, Segment
from anyvisor.x86_64.state import Sregs
"""
TESTS = """
class TestMine(StepTests):
    plugin = {plugin}
    changes = {changes}
{more}
"""
ON_ONE_HOST = """
    @classmethod
    def hosts(cls):
        return {"generic": generic_facts()}
"""


COUNT = len([name for name in dir(steps.StepTests) if name.startswith("test_")]) + len(steps.VCPUS) - 1

OF_THEIR_OWN = """
    @pytest.fixture
    def facts(self):
        return attrs.evolve(generic_facts(), notes=("mine",))

    @pytest.fixture
    def config(self, kernel):
        return MachineConfig(kernel=kernel, vcpus=3, command_line="quiet", tables="mptable")

    def test_difference(self, difference, plan, default_plan, setting):
        assert "every vCPU Cpuid -SSE2" in difference
        assert difference.hooks == set(self.changes)
        assert len(plan.vcpus) == len(default_plan.vcpus) == 3
        assert plan.blob("command line").content == b"quiet\\0"
        assert setting.facts.notes == ("mine",)
"""
ON_SOME_HOSTS = """
class Mine:
    @hookimpl(wrapper=True)
    def anyvisor_cpuid(self):
        cpuid = yield
        return cpuid.without(Feature.AVX512F)
"""
PASSING = {
    "good": (GOOD, GOOD_CHANGES, ON_ONE_HOST),
    "good on every host": (GOOD, GOOD_CHANGES, ""),
    "good for the author's own machine and host": (GOOD, GOOD_CHANGES, ON_ONE_HOST + OF_THEIR_OWN),
    "good where it matters on some hosts only": (ON_SOME_HOSTS, {"anyvisor_cpuid"}, ""),
}

INCOMPLETE = {
    "no plugin": (
        GOOD,
        None,
        {"anyvisor_gdt"},
        "TestMine has no plugin: set `plugin` to the module or object*",
    ),
    "no changes": (
        GOOD,
        "Mine()",
        None,
        "TestMine does not say what its plugin changes: set `changes` to a set of the hooks*",
    ),
    "empty changes": (GOOD, "Mine()", set(), "TestMine does not say what its plugin changes*"),
    "changes of one word": (GOOD, "Mine()", "'anyvisor_gdt'", "TestMine does not say what its plugin changes*"),
}


def module(source, changes, *, plugin="Mine()", more=ON_ONE_HOST):
    return HEADER + textwrap.dedent(source) + TESTS.format(plugin=plugin, changes=changes, more=more)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What pytest says of every plugin: its name -> test -> message, empty for a test that passed."""
    directory = tmp_path_factory.mktemp("steps")
    sources = {name: module(source, changes, more=more) for name, (source, changes, more) in PASSING.items()}
    sources |= {name: module(source, changes) for name, (source, changes, _, _) in FAULTS.items()}
    sources |= {
        name: module(source, changes, plugin=plugin) for name, (source, plugin, changes, _) in INCOMPLETE.items()
    }
    files = {name: f"test_{number}" for number, name in enumerate(sources)}
    for name, source in sources.items():
        (directory / f"{files[name]}.py").write_text(source.replace("MODULE", files[name]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "--junitxml=report.xml", "."],
        cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    cases = list(ElementTree.parse(directory / "report.xml").iter("testcase"))
    return {name: {each.get("name"): said(each) for each in cases if of(each) == file} for name, file in files.items()}


def of(case):
    return case.get("classname").partition(".")[0]


def said(case):
    return "".join(f"{each.text}" for each in case)


@pytest.mark.parametrize("name", PASSING)
def test_a_good_step_passes_every_test(reports, name):
    assert {test: message for test, message in reports[name].items() if message} == {}
    assert len(reports[name]) == COUNT + ("own" in name) > 12


def test_the_mock_backend_knows_hosts_to_plan_for():
    assert len(steps.StepTests.hosts()) > 10


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_the_test_that_is_for_it_with_a_message_that_points_at_it(reports, name):
    _, _, test, message = FAULTS[name]
    assert fnmatch.fnmatchcase(reports[name][test], f"*{message}*"), reports[name][test]


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_is_told_without_lines_of_ours(reports, name):
    assert not [message for message in reports[name].values() if "Traceback" in message or "steps.py" in message]


@pytest.mark.parametrize("name", INCOMPLETE)
def test_a_class_that_lacks_something_says_what(reports, name):
    *_, message = INCOMPLETE[name]
    assert [said for said in reports[name].values() if fnmatch.fnmatchcase(said, f"{message}*")]
