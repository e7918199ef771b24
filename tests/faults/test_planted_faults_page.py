"""The page on planted faults has every one of them, with what the tests find on each host."""

from pathlib import Path

import pytest

from faults.page import count, tables

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "planted-faults.md"


@pytest.mark.parametrize("heading", tables())
def test_the_page_has_the_tables_that_the_tests_go_by(heading):
    section = PAGE.read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert found == tables()[heading]


def test_the_page_has_the_count():
    assert count() in " ".join(PAGE.read_text("utf-8").split())
