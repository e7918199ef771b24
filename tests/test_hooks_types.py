"""The table of types in the hooks reference leads to every type that a hook is given or returns."""

import importlib
import re
from pathlib import Path

from anyvisor import hookspecs
from anyvisor.plugins import hook_names

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "hooks.md"
BUILT_IN = {"None", "dict", "int", "object", "str", "tuple"}


def test_every_type_of_a_hook_is_in_the_table_and_in_its_module():
    table = PAGE.read_text("utf-8").partition("## Types")[2].partition("\n## ")[0]
    found = {
        name: module
        for module, names in re.findall(r"^\| `([\w.]+)` \| (.*) \|$", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    wanted = {
        word
        for hook in hook_names()
        for annotation in getattr(hookspecs, hook).__annotations__.values()
        for word in re.findall(r"\w+", annotation)
    }
    assert set(found) == wanted - BUILT_IN
    for name, module in found.items():
        assert getattr(importlib.import_module(module), name).__name__ == name
