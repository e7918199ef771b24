"""What a vCPU refuses of events on their way to it, and of its activity."""

from anyvisor.x86_64.state import (
    Activity,
    MpState,
    Regs,
    Sregs,
    VcpuEvents,
)
from rule_cases.case import accepted, accepted_elsewhere, case, refused

NO_SUCH_MSR = 0x12345
NON_CANONICAL = 1 << 62
MXCSR, HEADER = 24, 512
X87, SSE, AVX, AVX512 = 1, 2, 4, 0xE0


# -- events ------------------------------------------------------------------------------------------------------------


def events(bench, *, irqchip=True, **fields):
    vcpu = bench.vcpu(irqchip=irqchip)
    vcpu.put(VcpuEvents(**fields))
    return vcpu.get(VcpuEvents)


@refused("exception-vectors")
def an_exception_beyond_31(bench):
    events(bench, exception_injected=True, exception_vector=32)


@refused("exception-vectors")
def an_exception_that_is_the_nmi(bench):
    events(bench, exception_pending=True, exception_vector=2)


@accepted
def an_exception_vector_that_is_not_on_its_way(bench):
    return events(bench, exception_vector=32)


@accepted
def a_page_fault_with_its_error_code(bench):
    return events(
        bench, exception_injected=True, exception_vector=14, exception_has_error_code=True, exception_error_code=2
    )


@accepted
def a_payload_without_a_pending_exception_is_dropped(bench):
    return events(bench, exception_injected=True, exception_vector=1, exception_has_payload=True, exception_payload=4)


@accepted
def a_payload_of_a_pending_exception(bench):
    return events(bench, exception_pending=True, exception_vector=1, exception_has_payload=True, exception_payload=4)


@accepted
def a_pending_exception_is_not_injected(bench):
    return events(bench, exception_pending=True, exception_injected=True, exception_vector=6)


@accepted
def an_interrupt_that_is_soft_is_not_reported(bench):
    return events(bench, interrupt_injected=True, interrupt_vector=0x80, interrupt_soft=True)


@accepted
def an_interrupt_on_its_way(bench):
    return events(bench, irqchip=False, interrupt_injected=True, interrupt_vector=0x80)


@accepted
def an_nmi_that_waits(bench):
    return events(bench, nmi_pending=True, nmi_masked=True)


@accepted
def an_nmi_on_its_way(bench):
    return events(bench, nmi_injected=True)


@accepted
def shadows(bench):
    return events(bench, interrupt_shadow=3)


@accepted
def a_triple_fault_on_its_way(bench):
    return events(bench, triple_fault_pending=True)


@accepted
def a_start_up_vector_is_taken_and_never_told(bench):
    return events(bench, sipi_vector=3)


@accepted_elsewhere
def management_mode(bench):
    return events(bench, smm=True, smi_pending=True)


@refused("smm-and-init")
def management_mode_of_a_vcpu_that_was_initialised(bench):
    vcpu = bench.vcpu()
    vcpu.put(MpState(Activity.INIT_RECEIVED))
    vcpu.put(VcpuEvents(smm=True))


@refused("smm-and-init")
def a_vcpu_in_management_mode_is_initialised(bench):
    vcpu = bench.vcpu()
    vcpu.put(VcpuEvents(smm=True))
    vcpu.put(MpState(Activity.INIT_RECEIVED))


@refused("smm-and-init")
def a_vcpu_that_is_to_enter_management_mode_is_started(bench):
    vcpu = bench.vcpu()
    vcpu.put(VcpuEvents(smi_pending=True))
    vcpu.put(MpState(Activity.SIPI_RECEIVED))


# -- activity ----------------------------------------------------------------------------------------------------------


for _activity in Activity:
    if _activity is not Activity.RUNNABLE:
        case("activity-needs-irqchip", f"{_activity.name} without chips")(
            lambda bench, activity=_activity: bench.vcpu(irqchip=False).put(MpState(activity))
        )
    case(None, f"{_activity.name} with chips")(lambda bench, activity=_activity: activity_of(bench.vcpu(), activity))


@accepted
def runnable_without_chips(bench):
    return activity_of(bench.vcpu(irqchip=False), Activity.RUNNABLE)


def activity_of(vcpu, activity):
    vcpu.put(MpState(activity))
    return vcpu.get(MpState)


@accepted
def reset_registers_wake_a_boot_processor_that_halts(bench):
    vcpu = bench.vcpu()
    reset, regs = vcpu.get(Sregs), vcpu.get(Regs)
    vcpu.put(MpState(Activity.HALTED))
    vcpu.put(regs)
    vcpu.put(reset)
    return vcpu.get(MpState)
