"""The stranger's backend in examples/: found, chosen, conforming, and as short as the README says."""

import ast
import json
import re
from pathlib import Path

import pytest
from strangers import EXAMPLES, Stranger

TOY = EXAMPLES / "anyvisor-toy"
BACKEND, HYPERVISOR = TOY / "src/anyvisor_toy.py", TOY / "src/toy_cpu.py"
ROOT = EXAMPLES.parent
LINES_PROMISED = 60


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return Stranger(TOY, tmp_path_factory.mktemp("toy"))


def code_lines(path: Path) -> list[str]:
    """The lines of a module without blank ones, comments, docstrings and the imports at its top."""
    source = path.read_text()
    tree = ast.parse(source)
    left_out = {number for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for number in span(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            left_out |= set(span(node.body[0]))
    numbered = enumerate(source.splitlines(), 1)
    return [line for number, line in numbered if number not in left_out and re.match(r"\s*[^\s#]", line)]


def span(node):
    return range(node.lineno, node.end_lineno + 1)


def test_a_hypervisor_is_added_in_sixty_lines():
    assert len(code_lines(BACKEND)) <= LINES_PROMISED
    assert len(code_lines(BACKEND)) + len(code_lines(HYPERVISOR)) < 100
    assert max(map(len, BACKEND.read_text().splitlines())) <= 120
    assert f"**{LINES_PROMISED} lines**" in (ROOT / "README.md").read_text()


def test_the_toy_hypervisor_knows_nothing_of_anyvisor():
    assert "import" not in "\n".join(code_lines(HYPERVISOR))


@pytest.mark.parametrize("path", [BACKEND, HYPERVISOR], ids=lambda path: path.stem)
def test_the_guide_shows_the_example_as_it_is(path):
    guide = (ROOT / "docs/how-to/write-a-backend.md").read_text()
    assert f"```python\n# {path.name}\n{path.read_text().rstrip()}\n```" in guide


def test_it_is_found_by_its_entry_point(toy):
    found = {each["name"]: each for each in json.loads(toy.anyvisor("backends", "--json"))}
    assert found["toy"]["available"]
    assert found["toy"]["plugin"] == "toy"
    assert "anyvisor-toy 1.0" in toy.anyvisor("plugins")


def test_it_is_chosen_on_the_command_line_and_conforms(toy):
    report = json.loads(toy.anyvisor("conformance", "--backend", "toy", "--json"))
    assert report["passed"]
    assert sum(each["passed"] for each in report["contracts"]) > 90


def test_its_own_tests_pass(toy):
    assert re.search(r"\d+ passed", toy.tests())
