"""A plan of what KVM and the emulated processor have in common boots here on KVM; outside it boots without."""

from pathlib import Path

import plan_for_both
from conversation import greet, part

from anyvisor.assemble import assemble
from anyvisor.common import common_facts
from anyvisor.launch import launch
from anyvisor.plan import BootPlan
from anyvisor_kvm.hypervisor import open_kvm
from anyvisor_unicorn.hypervisor import open_unicorn

SHARE = Path("/share")


def test_a_plan_for_both_boots_on_kvm_from_its_json(cloud_kernel):
    with open_kvm() as kvm:
        with open_unicorn() as unicorn:
            facts = common_facts(kvm.facts, unicorn.facts)
        saved = SHARE / plan_for_both.PLAN
        saved.write_text(assemble(plan_for_both.config(), facts).to_json())
        with launch(BootPlan.from_json(saved.read_text()), kvm) as machine:
            machine.start()
            print(greet(machine, cloud_kernel.version))
            part(machine)
