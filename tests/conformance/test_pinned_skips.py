"""A skip of a conformance test is known, or it is a failure; and what is known to be lacking is lacking."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SOURCE = """
import pytest
from anyvisor import Capability, open_hypervisor
from anyvisor.testing.contracts.contract import Contract
from anyvisor.testing.requirements import needs

class TestPinned(Contract):
    LACKS = {lacks}

    @pytest.fixture
    def hypervisor(self):
        with open_hypervisor("unicorn") as hypervisor:
            yield hypervisor

    def test_that_runs(self): pass

    @needs(Capability.IRQCHIP)
    def test_that_is_skipped(self): pass

    @pytest.mark.parametrize("number", range(2))
    def test_of_some_numbers(self, number): pass
"""


@pytest.fixture
def run_in_ci(tmp_path):
    """Run such a class as CI does: the exit code and what was said."""

    def run(lacks, *arguments):
        (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
        (tmp_path / "test_pinned.py").write_text(SOURCE.format(lacks=lacks))
        environment = {**os.environ, "CI": "true", "PYTHONPATH": str(TESTS)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


def test_a_pinned_skip_is_let_through_and_still_printed(run_in_ci):
    code, said = run_in_ci({"irqchip"})
    assert code == 0, said
    assert "3 passed, 1 skipped" in said
    assert "needs irqchip; the unicorn backend has not" in said


def test_a_skip_that_is_not_pinned_is_a_failure(run_in_ci):
    code, said = run_in_ci(set())
    assert code == 1
    assert "TestPinned.LACKS does not have 'irqchip'" in said


def test_what_is_pinned_and_not_lacking_fails_the_run(run_in_ci):
    code, said = run_in_ci({"irqchip", "kick"})
    assert code == 1
    assert "TestPinned.LACKS has 'kick', and no test was skipped for it, so this run has failed" in said


def test_a_part_of_the_class_need_not_lack_everything(run_in_ci):
    code, said = run_in_ci({"irqchip"}, "-k", "test_that_runs")
    assert code == 0, said


def test_any_other_skip_still_fails_in_ci(run_in_ci, tmp_path):
    (tmp_path / "test_other.py").write_text("import pytest\ndef test_other(): pytest.skip('not today')\n")
    code, said = run_in_ci({"irqchip"})
    assert code == 1
    assert "CI=true: nothing may be skipped, so this run has failed" in said
