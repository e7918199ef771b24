"""The pages for step authors name every test and fixture there is, and their test modules pass as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from anyvisor.difference.change import PARTS
from anyvisor.testing import StepTests

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE, GUIDE = DOCS / "reference/step-tests.md", DOCS / "how-to/change-a-boot-step.md"
SECONDS = 50


def section(title):
    return REFERENCE.read_text("utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]


def first_cells(text):
    return {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def members(kind):
    return {name for name, value in vars(StepTests).items() if kind(name, value)}


def test_the_page_has_every_test_and_no_other():
    assert first_cells(section("Tests")) == members(lambda name, _: name.startswith("test_"))


def test_the_page_has_every_fixture_and_no_other():
    assert first_cells(section("Fixtures")) == members(lambda _, value: hasattr(value, "_fixture_function_marker"))


def test_the_page_has_every_part_of_a_difference():
    assert all(f"`{part}`" in section("Differences") for part in PARTS)


@pytest.mark.parametrize(("page", "count"), [(REFERENCE, 14), (GUIDE, 14)], ids=["reference", "guide"])
def test_the_classes_on_a_page_pass(tmp_path, page, count):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    last = max(index for index, block in enumerate(blocks) if "StepTests" in block)
    code = [block for block in blocks[: last + 1] if re.search(r"^class ", block, re.MULTILINE)]
    (tmp_path / "test_page.py").write_text("\n\n".join(code))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", tmp_path / "test_page.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert f"\n{count} passed in " in done.stdout, done.stdout
