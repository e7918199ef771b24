"""The suite as a backend's author has it: a test class of his own, under his own pytest."""

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from anyvisor.testing.requirements import CONFORMANCE_VERSION

HEAD = """
import pytest
from anyvisor import open_hypervisor
from anyvisor.testing import HypervisorTests
"""
GOOD = f"""{HEAD}
class TestTheirs(HypervisorTests):
    conformance_version = {CONFORMANCE_VERSION}

    @pytest.fixture
    def hypervisor(self):
        with open_hypervisor("unicorn") as hypervisor:
            yield hypervisor
"""
RUNNING = ("-k", "test_a_port_write_reaches_the_bus")
BROKEN = (
    GOOD.replace("yield hypervisor", "yield Broken(hypervisor)")
    + """
class Broken:
    def __init__(self, inner): self.inner, self.facts = inner, inner.facts
    def create_vm(self, **options): return BrokenVm(self.inner.create_vm(**options))

class BrokenVm:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)
    def map_memory(self, ram): self.inner.map_memory(ram); self.ram = ram
    def create_vcpu(self, index): return BrokenVcpu(self.inner.create_vcpu(index))

class BrokenVcpu:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)
    def run(self, bus):
        from anyvisor.exits import Kicked
        self.inner.run(bus)
        return Kicked()
"""
)
MISTAKES = {
    "no fixture": (
        f"{HEAD}\nclass TestTheirs(HypervisorTests): pass", "TestTheirs must have a fixture `hypervisor` that yields",
    ),
    "nothing": (GOOD.replace("yield hypervisor", "yield"), "gave nothing, which has no HostFacts as `facts`"),
    "a VM": (
        GOOD.replace("yield hypervisor", "yield hypervisor.create_vm()"),
        "gave a UnicornVm, which has no HostFacts",
    ),
    "a version to come": (
        GOOD.replace(f"version = {CONFORMANCE_VERSION}", "version = 99"),
        "conformance_version is 99; .* upgrade any",
    ),
}  # fmt: skip
FILES = {"good": GOOD, "broken": BROKEN, **{name: source for name, (source, _) in MISTAKES.items()}}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Their test files, each with one mistake or none."""
    directory = tmp_path_factory.mktemp("theirs")
    for number, source in enumerate(FILES.values()):
        (directory / f"test_{number}.py").write_text(source)
    return directory


@pytest.fixture(scope="module")
def run_pytest(directory):
    """Run pytest there, warnings being errors: its exit code, and what it says."""
    unset = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in unset}

    def run(*arguments):
        options = ("-W", "error", "--strict-markers", "--strict-config", "-ra", "-p", "no:cacheprovider")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments],
            cwd=directory, env=environment, capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def told(directory, run_pytest):
    """What pytest says of each file's one test: a function of the file's name; empty for one that passed."""
    code, said = run_pytest(*RUNNING, "--junitxml=report.xml", "--tb=short", "--rootdir=.")
    assert code == 1, said
    cases = list(ElementTree.parse(directory / "report.xml").iter("testcase"))

    def of(name):
        module = f"test_{list(FILES).index(name)}"
        (case,) = [case for case in cases if case.get("classname").startswith(module)]
        return "".join(f"{each.get('message')}\n{each.text}" for each in case)

    return of


def test_an_authors_class_is_collected_and_passes(told):
    assert told("good") == ""


def test_all_of_it_is_collected_without_a_warning(run_pytest):
    code, said = run_pytest("test_0.py", "--collect-only", "-q")
    assert code == 0, said
    assert "TestTheirs::test_a_port_write_reaches_the_bus_and_run_does_not_return_for_it" in said
    assert "warning" not in said


def test_the_assertions_of_the_suite_show_their_values(told):
    assert "assert Kicked() == Halted()" in told("broken")


def test_the_marks_are_known_and_explained(run_pytest):
    _, said = run_pytest("--markers")
    assert "@pytest.mark.anyvisor_needs(" in said
    assert "@pytest.mark.anyvisor_since(" in said


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_author_is_told_in_a_line(told, mistake):
    said, (_, words) = told(mistake), MISTAKES[mistake]
    assert re.search(words, said), said
    assert "Traceback" not in said


def test_importing_the_plugin_imports_no_contract():
    code = "import sys, anyvisor.testing.plugin; print(*[name for name in sys.modules if 'testing.' in name and 'anyvisor' in name])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.split() == ["anyvisor.testing.plugin"]
