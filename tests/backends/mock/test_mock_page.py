"""docs/reference/mock.md lists the rules that there are, each with its words, its error and where it is known from."""

import errno
import re
from pathlib import Path

import attrs
import pytest

from anyvisor_mock import FailCall, InterruptStorm, VcpuDies, rules
from anyvisor_mock.x86_64 import rules as x86_rules

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "mock.md").read_text("utf-8")


def rows(heading):
    section = re.split(r"^#+ ", PAGE.split(f"### {heading}\n")[1], flags=re.MULTILINE)[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize(("heading", "module"), [("Every architecture", rules), ("x86_64", x86_rules)])
def test_the_page_has_every_rule_in_the_codes_words(heading, module):
    wanted = [
        [f"`{each.name}`", each.does, errno.errorcode[each.errno] if each.errno else "Unsupported", each.seen]
        for each in rules.rules_in(module)
    ]
    assert rows(heading) == wanted


def test_the_page_names_every_fault_with_its_fields():
    for fault in (FailCall, InterruptStorm, VcpuDies):
        names = ", ".join(each.name for each in attrs.fields(fault))
        assert f"| `{fault.__name__}({names})` |" in PAGE
