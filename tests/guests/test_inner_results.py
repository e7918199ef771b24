import subprocess
import sys

import pytest
from inner_results import InnerTest, problems, read_results

SUITE = """
import pytest

@pytest.fixture
def broken(): raise OSError("no such thing")
@pytest.fixture
def leaves_a_mess():
    yield
    raise OSError("could not clean up")

def test_good(): pass
def test_wrong(): assert 6 * 7 == 54, "in base 13"
def test_error(broken): pass
def test_mess(leaves_a_mess): pass
@pytest.mark.skip(reason="no such chip")
def test_skipped(): pass
@pytest.mark.xfail(reason="someday")
def test_expected_to_fail(): assert False
"""


@pytest.fixture(scope="module")
def tests(tmp_path_factory):
    """What a real pytest wrote about one test of each kind."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "--junit-xml=junit.xml", "-p", "no:cacheprovider"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60)
    return {test.name.partition("::")[2]: test for test in read_results(folder / "junit.xml")}


def test_each_kind_of_ending_is_told_apart(tests):
    assert {name: test.outcome for name, test in tests.items()} == {
        "test_good": "passed",
        "test_wrong": "failure",
        "test_error": "error",
        "test_mess": "error",
        "test_skipped": "skipped",
        "test_expected_to_fail": "skipped",
    }
    assert "in base 13" in tests["test_wrong"].text
    assert "could not clean up" in tests["test_mess"].text


def test_every_ending_but_passed_is_a_problem(tests):
    found = problems(list(tests.values()))
    assert len(found) == 5
    assert not any("test_good" in problem for problem in found)


def test_a_skip_is_no_problem_when_its_reason_is_allowed(tests):
    some = [tests["test_good"], tests["test_skipped"]]
    assert problems(some, allowed_skips=["no such chip"]) == []
    assert len(problems(some, allowed_skips=["no such network"])) == 1


@pytest.mark.parametrize("outcomes", [[], ["skipped"]])
def test_a_run_in_which_nothing_passed_is_a_problem(outcomes):
    assert problems([InnerTest("a", 0.0, outcome) for outcome in outcomes], allowed_skips=[""])
