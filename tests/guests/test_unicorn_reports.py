"""Reports on a stock Linux that died or fell silent: they name what was planted, with the kernel's own names."""

import time

import attrs
import pytest

from anyvisor import assemble, launch, open_hypervisor
from anyvisor.config import MachineConfig
from anyvisor.errors import GuestError
from anyvisor.symbols import Symbols
from anyvisor.x86_64.state import Regs

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

PATIENCE_SECONDS = 60


@pytest.fixture
def machine_of(cloud_kernel):
    """A function that launches the kernel with changes to its first registers."""
    with open_hypervisor("unicorn") as host:
        machines = []

        def make(**registers):
            config = MachineConfig(kernel=cloud_kernel.vmlinuz, memory="256M", unpack=True)
            plan = assemble(config, host.facts)
            first = plan.vcpus[0]
            states = tuple(attrs.evolve(each, **registers) if isinstance(each, Regs) else each for each in first.states)
            changed = attrs.evolve(plan, vcpus=(attrs.evolve(first, states=states),))
            machine = launch(changed, host)
            machines.append(machine)
            machine.symbols = Symbols.load(cloud_kernel.vmlinuz)
            return machine

        yield make
        for machine in machines:
            machine.close()


def test_a_changed_byte_of_the_kernel_is_found_where_it_is(machine_of):
    machine = machine_of()
    entry = machine.plan.vcpus[0].state(Regs).rip
    machine.memory.write(entry + 0x20, b"\x06")
    with pytest.raises(GuestError) as caught:
        machine.start().wait(PATIENCE_SECONDS)
    error = caught.value
    assert error.likely.name == "code-damaged"
    assert f"{entry + 0x20:#x}" in error.likely.summary
    assert "at its physical address" in error.report.summary  # the kernel's own name for where it died
    assert error.report.notes == ()


def test_a_kernel_that_panicked_in_silence_is_heard_from_its_memory(machine_of):
    machine = machine_of(rsi=0x5000)  # where no zero page is: it finds no memory map, and no command line either
    machine.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    names: list[str] = []
    while "guest-panic" not in names and time.monotonic() < deadline:
        time.sleep(0.5)
        (report,) = machine.inspect().reports
        names = [each.name for each in report.causes]
    assert machine.console.text == ""
    assert names[:2] == ["handover-found", "guest-panic"]
    (log,) = [each.text for each in report.sections if "log" in each.title]
    assert "Kernel panic - not syncing" in log
