"""A plan of what KVM and the emulated processor have in common boots here on KVM; outside it boots without.

What they have in common is a machine with interrupt chips of its own, so this is also the real kernel on real KVM that
is served by our 8259 pair and 8254.
"""

from pathlib import Path

import plan_for_both
from conversation import complaints, converse

from anyvisor.assemble import assemble
from anyvisor.common import common_facts
from anyvisor.launch import launch
from anyvisor.plan import BootPlan
from anyvisor_kvm.hypervisor import open_kvm
from anyvisor_unicorn.hypervisor import open_unicorn

SHARE = Path("/share")


def test_a_plan_for_both_boots_on_kvm_from_its_json_with_the_machines_own_interrupt_chips_and_timer(cloud_kernel):
    with open_kvm() as kvm:
        with open_unicorn() as unicorn:
            facts = common_facts(kvm.facts, unicorn.facts)
        plan = assemble(plan_for_both.config(), facts)
        assert {"pic", "pit"} <= {device.kind for device in plan.devices}
        assert not plan.vm_states_before
        saved = SHARE / plan_for_both.PLAN
        saved.write_text(plan.to_json())
        with launch(BootPlan.from_json(saved.read_text()), kvm) as machine:
            machine.start()
            log = converse(machine, cloud_kernel.version)
    assert b"No local APIC present" in log
    assert not complaints(log)
