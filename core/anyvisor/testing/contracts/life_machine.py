"""The life cycle as a state machine: hypothesis draws what is done next, and a model says what must come of it."""

from __future__ import annotations

import importlib

import pytest

from anyvisor.hypervisor import Hypervisor
from anyvisor.testing.contracts.contract import Contract
from anyvisor.testing.watch import Held

EXTRA = "needs hypothesis: pip install 'anyvisor[testing]'"


class LifeMachineContract(Contract):
    """VMs and vCPUs in whatever order hypothesis draws, the same every time: the draws begin from a fixed seed."""

    def test_whatever_is_done_in_whatever_order_the_model_holds(self, hypervisor: Hypervisor) -> None:
        """VMs and vCPUs made, run, kicked, read, put and closed in any order do what a simple model says.

        Only errors of anyvisor's own come, where the model expects them; and at the end nothing is held.
        """
        pytest.importorskip("hypothesis", reason=EXTRA)
        rules = importlib.import_module("anyvisor.testing.contracts.life_rules")
        rules.play(hypervisor)
        before = Held.now()
        rules.play(hypervisor)
        assert not Held.now().gained_since(before), "still held when every VM was closed"
