"""The suite's reference page is true: every need, contract and instruction of the suite, and no other."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

from anyvisor import Capability
from anyvisor.testing import CONFORMANCE_VERSION, HypervisorTests, contracts, x86_64
from anyvisor.testing.contracts.contract import Contract
from anyvisor.testing.report import OUTCOMES
from anyvisor.testing.requirements import needs, since
from anyvisor.testing.x86_64 import guests
from anyvisor.x86_64.modes import MODES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference/conformance.md").read_text("utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def contract_classes() -> list[type]:
    """The classes that tests stand in, in the order in which the command runs them."""
    return [cls for cls in HypervisorTests.__mro__ if own_tests(cls)]


def own_tests(cls: type) -> list[str]:
    return [name for name in vars(cls) if name.startswith("test")]


def first_sentence(cls: type) -> str:
    return re.split(r"(?<=\.)\s", " ".join((cls.__doc__ or "").split()))[0]


def test_the_page_has_every_contract_with_its_sentence():
    wanted = [f"| `{cls.__name__}` | {first_sentence(cls)} |" for cls in contract_classes()]
    rows = [line for line in section("The contracts").splitlines() if line.startswith("| `")]
    assert rows == wanted, "\n" + "\n".join(wanted)


def test_every_test_says_what_must_hold():
    tests = {name: vars(cls)[name] for cls in contract_classes() for name in own_tests(cls)}
    assert len(tests) > 1
    assert [name for name, test in tests.items() if not (test.__doc__ or "").strip()] == []


def test_the_suite_has_every_contract_that_there_is():
    for package in (contracts, x86_64):
        for found in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{found.name}")

    def below(cls):
        for each in cls.__subclasses__():
            yield each
            yield from below(each)

    ours = [cls for cls in below(Contract) if cls.__module__.startswith("anyvisor.testing") and own_tests(cls)]
    assert {cls.__name__ for cls in ours} <= {cls.__name__ for cls in HypervisorTests.__mro__}


def test_no_test_of_one_contract_hides_that_of_another():
    names = [name for cls in contract_classes() for name in own_tests(cls)]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_the_page_has_every_need():
    text = section("What a test may need")
    for capability in Capability:
        assert re.search(rf"[`\s]{re.escape(capability.value)}`", text), capability.value
    for mode in MODES:
        assert mode in text
    rows = [line for line in text.splitlines() if line.startswith("| `needs ")]
    assert len(rows) == len(inspect.signature(needs).parameters) + len(inspect.signature(since).parameters)


def test_the_page_has_the_basic_instructions_and_the_version():
    (listed,) = re.findall(r"```text\n(.*?)```", section("The basic instructions"), re.DOTALL)
    written = (guests.__doc__ or "").partition("modes it names:\n")[2]
    assert listed.split() == written.split()
    assert f"today {CONFORMANCE_VERSION} (" in section("Versions")
    for outcome in OUTCOMES:
        assert f"`{outcome}`" in section("In a program")
