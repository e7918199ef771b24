"""Why a hypervisor refused a state of a plan: the rules that it breaks."""

from __future__ import annotations

from anyvisor.architectures import part
from anyvisor.finding import Finding, errors
from anyvisor.plan import BootPlan
from anyvisor.states import VcpuState


def broken_rules(plan: BootPlan, vcpu: int, state: VcpuState) -> tuple[Finding, ...]:
    """The rules that a vCPU of the plan breaks, first those of the state that was refused. Raises nothing."""
    try:
        checks = part(plan.architecture, "entry_checks")
        found = [*checks.check_states({type(state): state}, vcpu=vcpu), *checks.check_plan(plan)]
    except Exception:  # noqa: BLE001 - the refusal itself must be told, whatever is wrong with its explanation
        return ()
    return tuple({each.check: each for each in errors(found) if each.vcpu == vcpu}.values())
