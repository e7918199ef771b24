"""Faults of a small backend that show in few places: each is found by the contract that is for it."""

import sys
from functools import partial
from pathlib import Path

import attrs
import pytest

from anyvisor.clock import HostClock
from anyvisor.exits import Kicked
from anyvisor.testing import run_conformance
from anyvisor.testing.watch import until
from anyvisor.x86_64.state import Regs

TOY = Path(__file__).parents[2] / "examples/anyvisor-toy/src"


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(TOY))
    import anyvisor_toy

    yield anyvisor_toy
    for name in ("anyvisor_toy", "toy_cpu"):
        sys.modules.pop(name, None)


def an_mmio_access_that_fails_is_made_again(toy, patch):
    real = toy.ToyCpu.step

    def step(self, memory, bus):
        before, opcode = self.ip, memory[self.code_base + self.ip]
        try:
            return real(self, memory, bus)
        except BaseException:
            self.ip = before if opcode in (0xA0, 0xA2) else self.ip
            raise

    patch.setattr(toy.ToyCpu, "step", step)


def an_error_that_is_no_exception_is_swallowed(toy, patch):
    real = toy.ToyVcpu.run

    def run(self, bus):
        try:
            return real(self, bus)
        except Exception:
            raise
        except BaseException:  # noqa: BLE001 - the fault
            return Kicked()

    patch.setattr(toy.ToyVcpu, "run", run)


def code_is_read_once_for_each_address(toy, patch):
    real = toy.ToyCpu.step

    def step(self, memory, bus):
        known, start = self.__dict__.setdefault("known", {}), self.code_base + self.ip
        now = bytes(memory[start : start + 3])
        memory[start : start + 3] = known.setdefault((start, now[0]), now)
        try:
            return real(self, memory, bus)
        finally:
            memory[start : start + 3] = now

    patch.setattr(toy.ToyCpu, "step", step)


def one_clock_is_everybodys(toy, patch):
    clock = HostClock()
    patch.setattr(toy, "HostClock", lambda: clock)


def rip_is_at_the_hlt_and_not_behind_it(toy, patch):
    real = toy.ToyVcpu.get

    def get(self, kind):
        found = real(self, kind)
        halted = kind is Regs and found.rip and self._vm.memory and self._vm.memory[(found.rip - 1) & 0x7FFF] == 0xF4
        return attrs.evolve(found, rip=found.rip - 1) if halted else found

    patch.setattr(toy.ToyVcpu, "get", get)


def a_new_vcpu_begins_at_0(toy, patch):
    real = toy.ToyVcpu.__init__

    def start(self, index, vm):
        real(self, index, vm)
        self.put(Regs())

    patch.setattr(toy.ToyVcpu, "__init__", start)


def a_part_of_a_page_is_mapped(toy, patch):
    patch.setattr(toy, "PAGE_BYTES", 1)


def al_is_everybodys(toy, patch):
    box = [0]
    patch.setattr(toy.ToyCpu, "al", property(lambda _: box[0], lambda _, al: box.__setitem__(0, al)), raising=False)


FAULTS = {
    an_mmio_access_that_fails_is_made_again: "test_an_access_whose_device_fails_is_not_made_again",
    an_error_that_is_no_exception_is_swallowed: "test_an_access_whose_device_fails_is_not_made_again",
    code_is_read_once_for_each_address: "test_the_guest_runs_the_code_that_it_has_stored_itself",
    one_clock_is_everybodys: "test_a_vm_that_is_closed_stops_no_other_clock",
    rip_is_at_the_hlt_and_not_behind_it: "test_a_guest_that_has_halted_goes_on_behind_its_hlt_in_another_vm",
    a_new_vcpu_begins_at_0: "test_the_registers_of_a_new_vcpu_are_those_after_reset",
    a_part_of_a_page_is_mapped: "test_a_region_of_no_whole_pages_is_refused",
    al_is_everybodys: "test_vms_run_in_turns_and_share_nothing",
}


@pytest.mark.parametrize(("fault", "test"), FAULTS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_fault_is_found_by_the_contract_that_is_for_it(fault, test, toy, monkeypatch):
    monkeypatch.setattr("anyvisor.testing.contracts.clock.until", partial(until, seconds=0.5))
    assert run_conformance(toy.ToyHypervisor, match=test).passed, "the unbroken backend"
    fault(toy, monkeypatch)
    assert run_conformance(toy.ToyHypervisor, match=test).failures
