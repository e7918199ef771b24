"""What a contract needs of a backend, named, and since when it is part of the suite.

A backend that lacks what is named skips the test, and the reason of the skip is that name: `needs irqchip`. So a report
tells what has been proven, and what was not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import pytest

from anyvisor.codec import name_of
from anyvisor.facts import Capability, HostFacts
from anyvisor.states import State

F = TypeVar("F", bound=Callable[..., Any] | type)

CONFORMANCE_VERSION = 1
"""The version of the suite. A new test says `since(n)`; an author's older `conformance_version` leaves it out."""
NEEDS, SINCE = "anyvisor_needs", "anyvisor_since"
"""The marks by which tests carry it."""


def needs(
    *capabilities: Capability,
    states: tuple[type[State], ...] = (),
    modes: tuple[str, ...] = (),
    vcpus: int = 1,
    memory_slots: int = 1,
    address_bits: int = 0,
    hardware_id: int = 0,
    architecture: str = "",
    lacks: tuple[Capability, ...] = (),
) -> Callable[[F], F]:
    """Decorator: run the test only on a backend whose facts have all that, and none of `lacks`.

    On a class it is for the tests that stand in it, not for those of who inherits it.
    """
    wanted = {
        "capabilities": capabilities, "states": states, "modes": modes, "vcpus": vcpus, "memory_slots": memory_slots,
        "address_bits": address_bits, "hardware_id": hardware_id, "architecture": architecture, "lacks": lacks,
    }  # fmt: skip
    mark = getattr(pytest.mark, NEEDS)(**wanted)

    def decorate(target: F) -> F:
        tests: list[Any] = [target]
        if isinstance(target, type):
            tests = [each for name, each in vars(target).items() if name.startswith("test_")]
        for test in tests:
            mark(test)
        return target  # pyright: ignore[reportReturnType] - it has narrowed the type variable

    return decorate


def since(version: int) -> Callable[[F], F]:
    """Decorator: the test came with that version of the suite."""
    mark: Callable[[F], F] = getattr(pytest.mark, SINCE)(version)
    return mark


def missing(facts: HostFacts, wanted: dict[str, Any]) -> list[str]:
    """The names of what the backend lacks of what a `needs` asks for."""
    found = [each.value for each in wanted["capabilities"] if not facts.has(each)]
    found += [f"no {each.value}" for each in wanted["lacks"] if facts.has(each)]
    found += [f"the state {name}" for each in wanted["states"] if (name := name_of(each)) not in facts.states]
    found += [f"the processor mode {each}" for each in wanted["modes"] if each not in facts.modes]
    if facts.max_vcpus < wanted["vcpus"]:
        found.append(f"{wanted['vcpus']} vCPUs")
    if facts.max_memory_slots < wanted["memory_slots"]:
        found.append(f"{wanted['memory_slots']} memory slots")
    if facts.physical_address_bits < wanted["address_bits"]:
        found.append(f"{wanted['address_bits']} physical address bits")
    if facts.hardware_id_limit <= wanted["hardware_id"]:
        found.append(f"the hardware id {wanted['hardware_id']}")
    if wanted["architecture"] not in ("", facts.architecture):
        found.append(f"the architecture {wanted['architecture']}")
    return found


class Lack(Exception):
    """The cause of a skip: `need` names what is lacking."""

    def __init__(self, need: str):
        super().__init__(need)
        self.need = need


def lacking(facts: HostFacts, what: str) -> NoReturn:
    """Skip the test: that is what the backend lacks."""
    raise pytest.skip.Exception(f"needs {what}; the {facts.backend} backend has not") from Lack(what)


def check(request: pytest.FixtureRequest, hypervisor: object, version: object) -> None:
    """Skip the test that asks for it if the backend lacks something, or the author's version is older.

    It fails, saying what to do, when what the author has given is no hypervisor, or no version of this suite.
    """
    __tracebackhide__ = True
    cls: Any = request.cls
    facts = facts_of(hypervisor, cls)
    if type(version) is not int or not 1 <= version <= CONFORMANCE_VERSION:
        theirs = f"{cls.__name__}.conformance_version is {version!r}"
        way_out = "upgrade anyvisor, or lower it" if isinstance(version, int) and version > 1 else "give it one of them"
        pytest.fail(f"{theirs}; the suite of this anyvisor has 1 to {CONFORMANCE_VERSION}: {way_out}", pytrace=False)
    for mark in request.node.iter_markers(SINCE):
        if mark.args[0] > version:
            need = f"conformance version {mark.args[0]}"
            raise pytest.skip.Exception(f"needs {need}; {cls.__name__} has {version}") from Lack(need)
    for mark in request.node.iter_markers(NEEDS):
        for what in missing(facts, mark.kwargs):
            lacking(facts, what)


def facts_of(hypervisor: object, cls: type) -> HostFacts:
    """The facts of what an author's fixture gave; the test fails if it is no hypervisor."""
    __tracebackhide__ = True
    facts = getattr(hypervisor, "facts", None)
    if isinstance(facts, HostFacts) and callable(getattr(hypervisor, "create_vm", None)):
        return facts
    what = "nothing" if hypervisor is None else f"a {type(hypervisor).__name__}"
    lack = "no HostFacts as `facts`" if not isinstance(facts, HostFacts) else "no method `create_vm`"
    pytest.fail(
        f"the fixture `hypervisor` of {cls.__name__} gave {what}, which has {lack}; it must yield an open Hypervisor",
        pytrace=False,
    )
