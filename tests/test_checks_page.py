"""The page of checks has every check that there is, in its order, with what it wants and where manuals say so."""

import re
from pathlib import Path

from anyvisor.x86_64 import boot_checks, entry_checks

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "checks.md"


def rows(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, as cells."""
    text = PAGE.read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in re.findall(r"^\| `.*$", text, re.MULTILINE)]


def test_the_checks_of_a_processor() -> None:
    wanted = [[f"`{each.name}`", each.wants, each.intel or "-", each.amd or "-"] for each in entry_checks.CHECKS]
    assert rows("What a processor checks") == wanted


def test_the_checks_of_what_a_kernel_relies_on() -> None:
    wanted = [[f"`{each.name}`", each.wants, each.section or "-"] for each in boot_checks.CHECKS]
    assert rows("What a kernel relies on") == wanted
