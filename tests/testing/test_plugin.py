"""The suite as a backend's author has it: a test class of his own, under his own pytest."""

import re
import subprocess
import sys

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


@pytest.fixture
def run_pytest(tmp_path, monkeypatch):
    """Run pytest on a test file in a directory of its own, warnings being errors."""
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "CI"):
        monkeypatch.delenv(name, raising=False)

    def run(source, *arguments):
        (tmp_path / "test_theirs.py").write_text(source)
        options = ("-W", "error", "--strict-markers", "--strict-config", "-ra", "-p", "no:cacheprovider")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def test_an_authors_class_is_collected_and_passes(run_pytest):
    code, said = run_pytest(GOOD, *RUNNING)
    assert code == 0, said
    assert "1 passed" in said


def test_all_of_it_is_collected_without_a_warning(run_pytest):
    code, said = run_pytest(GOOD, "--collect-only", "-q")
    assert code == 0, said
    assert "TestTheirs::test_a_port_write_reaches_the_bus_and_run_does_not_return_for_it" in said
    assert "warning" not in said


def test_the_assertions_of_the_suite_show_their_values(run_pytest):
    broken = (
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
    code, said = run_pytest(broken, *RUNNING)
    assert code == 1, said
    assert "assert Kicked() == Halted()" in said


def test_the_marks_are_known_and_explained(run_pytest):
    _, said = run_pytest(GOOD, "--markers")
    assert "@pytest.mark.anyvisor_needs(" in said
    assert "@pytest.mark.anyvisor_since(" in said


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (f"{HEAD}\nclass TestTheirs(HypervisorTests): pass", "TestTheirs must have a fixture `hypervisor` that yields"),
        (GOOD.replace("yield hypervisor", "yield"), "gave nothing, which has no HostFacts as `facts`"),
        (GOOD.replace("yield hypervisor", "yield hypervisor.create_vm()"), "gave a UnicornVm, which has no HostFacts"),
        (GOOD.replace(f"version = {CONFORMANCE_VERSION}", "version = 99"), "conformance_version is 99; .* upgrade any"),
    ],
    ids=["no fixture", "nothing", "a VM", "a version to come"],
)
def test_a_mistake_of_the_author_is_told_in_a_line(run_pytest, source, words):
    code, said = run_pytest(source, *RUNNING)
    assert code == 1
    lines = [line for line in said.splitlines() if line.startswith("E ") or "Failed" in line or "fixture" in line]
    assert re.search(words, said), lines
    assert "Traceback" not in said


def test_importing_the_plugin_imports_no_contract():
    code = "import sys, anyvisor.testing.plugin; print(*[name for name in sys.modules if 'testing.' in name and 'anyvisor' in name])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.split() == ["anyvisor.testing.plugin"]
