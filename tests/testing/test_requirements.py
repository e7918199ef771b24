"""A contract's needs: what is lacking is named, and nothing else is skipped."""

import attrs
import pytest

from anyvisor import Capability
from anyvisor.testing.requirements import CONFORMANCE_VERSION, Lack, check, facts_of, missing, needs, since
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.msrs import Msrs

POOR = attrs.evolve(
    FACTS, capabilities=frozenset(), states=(), modes=(), max_vcpus=1, max_memory_slots=1, physical_address_bits=36
)


class Opened:
    """A hypervisor as far as the check looks."""

    def __init__(self, facts=FACTS):
        self.facts = facts

    def create_vm(self):
        raise AssertionError("the check makes no VM")


class Request:
    """What pytest hands over, as far as the check looks."""

    def __init__(self, *decorators):
        class TestTheirs:
            def test(self):
                pass

        self.cls, self.node = TestTheirs, self
        for decorate in decorators:
            decorate(TestTheirs.test)

    def iter_markers(self, name):
        return [mark for mark in getattr(self.cls.test, "pytestmark", []) if mark.name == name]


def wanted(**options):
    capabilities = options.pop("capabilities", ())

    @needs(*capabilities, **options)
    def test():
        pass

    return test.pytestmark[0].kwargs


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"capabilities": (Capability.IRQCHIP, Capability.KICK)}, ["irqchip", "kick"]),
        ({"states": (Msrs,)}, ["the state x86_64.Msrs"]),
        ({"modes": ("real", "long")}, ["the processor mode real", "the processor mode long"]),
        ({"vcpus": 2}, ["2 vCPUs"]),
        ({"memory_slots": 3}, ["3 memory slots"]),
        ({"address_bits": 40}, ["40 physical address bits"]),
        ({"architecture": "aarch64"}, ["the architecture aarch64"]),
    ],
)
def test_each_need_that_is_lacking_is_named(options, names):
    assert missing(POOR, wanted(**options)) == names


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"capabilities": (Capability.IRQCHIP,), "states": (Msrs,), "modes": ("real",)},
        {"vcpus": FACTS.max_vcpus, "memory_slots": FACTS.max_memory_slots},
        {"address_bits": FACTS.physical_address_bits, "architecture": "x86_64"},
        {"lacks": (Capability.KICK,)},
    ],
)
def test_what_a_backend_has_is_not_named(options):
    assert missing(FACTS, wanted(**options)) == []


def test_having_what_a_test_must_do_without_is_a_need_too():
    assert missing(FACTS, wanted(lacks=(Capability.IRQCHIP,))) == ["no irqchip"]


def test_a_skip_carries_the_name_of_what_is_lacking():
    with pytest.raises(pytest.skip.Exception, match=r"needs irqchip; the .* backend has not") as skip:
        check(Request(needs(Capability.IRQCHIP)), Opened(POOR), CONFORMANCE_VERSION)
    assert isinstance(skip.value.__cause__, Lack)
    assert skip.value.__cause__.need == "irqchip"


def test_a_test_is_run_that_needs_nothing_or_what_is_there():
    check(Request(), Opened(POOR), CONFORMANCE_VERSION)
    check(Request(needs(Capability.IRQCHIP), since(1)), Opened(), CONFORMANCE_VERSION)


def test_a_test_that_is_newer_than_the_author_is_skipped(monkeypatch):
    monkeypatch.setattr("anyvisor.testing.requirements.CONFORMANCE_VERSION", 3)
    check(Request(since(2)), Opened(), 2)
    with pytest.raises(pytest.skip.Exception, match="needs conformance version 3; TestTheirs has 2"):
        check(Request(since(3)), Opened(), 2)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(CONFORMANCE_VERSION + 1, "upgrade anyvisor"), (0, "give it one of them"), ("1", "give it one of them"), (True, "give it one of them")],  # noqa: E501
)  # fmt: skip
def test_a_version_that_there_is_not_fails(version, remedy):
    with pytest.raises(pytest.fail.Exception, match=f"TestTheirs.conformance_version is {version!r}; .*: {remedy}"):
        check(Request(), Opened(), version)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "gave nothing, which has no HostFacts"),
        (object(), "gave a object, which has no HostFacts"),
        (Opened(facts={}), "gave a Opened, which has no HostFacts"),
        (FACTS, "gave a HostFacts, which has no HostFacts"),
    ],
)
def test_what_is_no_hypervisor_fails_and_says_what_it_is(given, words):
    with pytest.raises(pytest.fail.Exception, match=f"`hypervisor` of TestTheirs {words}.*must yield an open"):
        check(Request(), given, CONFORMANCE_VERSION)


def test_a_hypervisor_that_can_make_no_vm_fails():
    class NoVms:
        facts = FACTS

    with pytest.raises(pytest.fail.Exception, match="no method `create_vm`"):
        facts_of(NoVms(), NoVms)
