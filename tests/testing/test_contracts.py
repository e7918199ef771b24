"""The contracts of the conformance suite as a whole: none is left out, none hides another."""

import importlib
import inspect
import pkgutil
from collections import Counter

import pytest

import anyvisor.testing
from anyvisor.testing import HypervisorTests
from anyvisor.testing.contracts.contract import Contract


def contracts():
    """Every contract: a class with tests of its own."""
    for each in pkgutil.walk_packages(anyvisor.testing.__path__, "anyvisor.testing."):
        module = importlib.import_module(each.name)
        for found in vars(module).values():
            own = inspect.isclass(found) and issubclass(found, Contract) and found.__module__ == each.name
            if own and own_tests(found):
                yield found


def own_tests(contract):
    return {name: each for name, each in vars(contract).items() if name.startswith("test_")}


CONTRACTS = sorted(contracts(), key=lambda each: each.__name__)


def test_no_test_of_a_contract_hides_another_of_the_same_name():
    names = Counter(name for contract in CONTRACTS for name in own_tests(contract))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda each: each.__name__)
def test_every_contract_is_in_the_suite(contract):
    assert issubclass(HypervisorTests, contract)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda each: each.__name__)
def test_every_test_says_to_an_author_what_must_hold(contract):
    silent = [name for name, test in own_tests(contract).items() if not inspect.getdoc(test)]
    assert silent == []


def test_what_a_class_of_contracts_needs_is_no_need_of_other_tests():
    """A mark on a class would be inherited, and an architecture's contracts are not all that there are."""
    assert not any(hasattr(contract, "pytestmark") for contract in CONTRACTS)
