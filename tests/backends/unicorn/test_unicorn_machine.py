"""Whole machines on the emulated processor: planned, launched and run, with a kernel of some instructions."""

import threading
import time

import pytest
from emulated_guests import assemble, held

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.errors import ConfigError, GuestError, HypervisorUnavailable
from anyvisor.exits import InternalError, Shutdown
from anyvisor.hookspecs import hookimpl
from anyvisor.memory import GIB, Region
from anyvisor.plan import DeviceSpec
from anyvisor.plugins import load_plugins
from anyvisor.x86_64.state import Regs, Sregs
from anyvisor_unicorn.hypervisor import open_unicorn
from elves import LOAD_ADDRESS, tiny_elf

COUNTER, BROKEN = LOAD_ADDRESS + 0x800, 0xD0000000
RESET = "mov $0xFE, %al; out %al, $0x64; cli; 1: hlt; jmp 1b"
PRINT_EAX = "mov $0x3F8, %edx; .rept 4; out %al, %dx; shr $8, %eax; .endr\n"
COUNT = f"1: incq {COUNTER}; jmp 1b"
TICKING = f"""
    mov $0x11, %al; out %al, $0x20
    mov $0x20, %al; out %al, $0x21
    mov $4, %al; out %al, $0x21
    mov $1, %al; out %al, $0x21
    mov $0xFE, %al; out %al, $0x21     # the timer's line only
    mov $0x34, %al; out %al, $0x43     # channel 0, a rate
    mov $0xA9, %al; out %al, $0x40
    mov $0x04, %al; out %al, $0x40     # 1193: a millisecond
    lea handler(%rip), %rax
    mov $LOAD_ADDRESS + 0xA00, %rdi    # gate 0x20 of an IDT there
    mov %ax, 0x200(%rdi); movw $0x10, 0x202(%rdi); movw $0x8E00, 0x204(%rdi)
    shr $16, %rax; mov %ax, 0x206(%rdi); movq $0, 0x208(%rdi)
    lidt idt(%rip)
    sti
wait: hlt
    cmpq $20, {COUNTER}
    jb wait
    rdtsc; xor %edx, %eax
    {PRINT_EAX} {RESET}
handler:
    push %rax
    incq {COUNTER}
    mov $0x20, %al; out %al, $0x20
    pop %rax
    iretq
idt: .word 0xFFF; .quad LOAD_ADDRESS + 0xA00
"""


def kernel(path, source):
    return tiny_elf(path, assemble(f".set LOAD_ADDRESS, {LOAD_ADDRESS}\n{source}", LOAD_ADDRESS), memory_bytes=0x3000)


@pytest.fixture
def config(tmp_path):
    """Configurations of machines whose kernel is that code."""

    def make(source, **options):
        return MachineConfig(kernel=kernel(tmp_path / "vmlinux", source), **{"memory": "64M", **options})

    return make


@pytest.fixture(params=["fast", "counted", "deterministic"])
def machine(request, config):
    """Boots machines of each kind, and closes them after the test."""
    made = []
    with open_unicorn(None if request.param == "deterministic" else request.param) as opened:

        def make(source, *, plugins=None, **options):
            wanted = config(source, deterministic=request.param == "deterministic", **options)
            made.append(anyvisor.boot(wanted, backend=opened, plugins=plugins))
            return made[-1]

        yield make
        for each in made:
            each.close()


def counted(booted):
    return int.from_bytes(booted.memory.read(COUNTER, 8), "little")


def test_the_boot_steps_lead_to_the_kernel_with_the_zero_page_in_rsi(machine):
    booted = machine(f"mov 0x202(%rsi), %eax; {PRINT_EAX} {RESET}")
    assert booted.wait(30).reason == "reset"
    assert booted.console.text == "HdrS"


def test_the_kernel_finds_the_registers_that_were_planned(machine):
    booted = machine(COUNT)
    booted.pause()
    sregs = booted.vcpus[0].get(Sregs)
    planned = booted.plan.vcpus[0].state(Sregs).fields
    names = ("cs", "ss", "tr", "gdt", "cr3", "cr4", "efer")
    assert {name: getattr(sregs, name) for name in names} == {name: planned[name] for name in names}


def test_the_machines_own_timer_interrupts_the_kernel(machine):
    booted = machine(TICKING)
    assert booted.wait(30).reason == "reset"
    assert counted(booted) >= 20


def test_two_deterministic_machines_say_the_same_at_the_same_time(config, fast):
    wanted = config(TICKING, deterministic=True)

    def live():
        with anyvisor.boot(wanted, backend=fast) as booted:
            assert booted.wait(30).reason == "reset"
            data, *_ = booted.console.read_output()
            return data, dict(booted.vcpus[0].exits), booted.vm.clock.now()

    assert live() == live()


def test_memory_of_more_than_the_gap_lies_on_both_sides_of_it(machine):
    booted = machine(f"""
        movabs ${5 * GIB}, %rdi; mov %rdi, %cr2
        movl $0x21212121, {LOAD_ADDRESS + 0x900}; mov {LOAD_ADDRESS + 0x900}, %eax
        {PRINT_EAX} {RESET}""", memory="5G", overcommit=True)  # fmt: skip
    assert booted.wait(30).reason == "reset"
    assert booted.console.text == "!!!!"
    low, high = booted.plan.ram
    assert low.end <= 4 * GIB == high.start
    sregs = booted.vcpus[0].get(Sregs)
    assert sregs.cr2 == 5 * GIB


def test_a_spinning_machine_pauses_resumes_and_stops(machine):
    booted = machine(COUNT)

    def moves_on(since):
        deadline = time.monotonic() + 20
        while counted(booted) == since and time.monotonic() < deadline:
            time.sleep(0.001)
        return counted(booted) != since

    assert moves_on(0)
    for _ in range(5):
        booted.pause()
        stood = counted(booted)
        assert booted.vcpus[0].get(Regs).rip in range(LOAD_ADDRESS, LOAD_ADDRESS + 16)
        time.sleep(0.02)
        assert counted(booted) == stood
        booted.resume()
        assert moves_on(stood)
    stopper = threading.Thread(target=booted.stop)
    stopper.start()
    assert booted.wait(20).reason == "stopped"
    stopper.join(20)
    assert not stopper.is_alive()


def test_a_paused_machine_waits_on_in_hlt(machine):
    """Until its timer, which is masked here, it does nothing."""
    booted = machine(f"mov $0xFF, %al; out %al, $0x21; out %al, $0xA1; sti; hlt; incq {COUNTER}; jmp .")
    for _ in range(5):
        time.sleep(0.01)
        booted.pause()
        assert counted(booted) == 0
        booted.resume()
    assert booted.stop().reason == "stopped"


def test_halting_with_interrupts_off_ends_the_machine(machine):
    assert machine("cli; hlt").wait(30).reason == "halted"


def test_a_dead_guest_says_why_and_shows_its_registers(machine):
    booted = machine("mov $0x1234567, %ebx; ud2")
    with pytest.raises(GuestError, match="triple fault") as caught:
        booted.wait(30)
    assert isinstance(caught.value.exit, Shutdown)
    assert "1234567" in str(caught.value)


def test_code_where_there_is_no_memory_kills_the_guest_and_says_where(machine):
    booted = machine("mov $0xC0000000, %eax; jmp *%rax")
    with pytest.raises(GuestError) as caught:
        booted.wait(30)
    assert isinstance(caught.value.exit, InternalError | Shutdown)
    assert "c0000000" in str(caught.value)


class BrokenDevice:
    """Raises what no device should, in the access that it is told to."""

    def __init__(self, when, context):
        self.when = when
        if when == "timer":
            self.timer = context.clock.timer(self.fail)
            self.timer.set(0)

    def fail(self):
        raise LookupError(f"no such part: {self.when}")

    def read(self, offset, size_bytes):
        if self.when == "read":
            self.fail()
        return 0

    def write(self, offset, size_bytes, value):
        if self.when == "write":
            self.fail()

    def close(self):
        pass


def open_broken_device(spec, context):
    return BrokenDevice(spec.name, context)


class BrokenDevicePlugin:
    """Puts a broken device into every machine."""

    def __init__(self, when):
        self.when = when

    @hookimpl
    def anyvisor_devices(self, config, facts):
        return (DeviceSpec("broken", self.when, mmio=(Region(BROKEN, 0x1000),), ports=(Region(0x500, 4),)),)

    @hookimpl
    def anyvisor_device_factories(self):
        return {"broken": f"{__name__}:open_broken_device"}


@pytest.mark.parametrize(
    ("when", "access"),
    [("read", f"mov ${BROKEN}, %eax; mov (%rax), %ebx"), ("write", f"mov ${BROKEN}, %eax; mov %ebx, (%rax)"),
     ("read", "mov $0x500, %edx; in %dx, %al"), ("write", "mov $0x500, %edx; out %al, %dx"), ("timer", "nop")],
    ids=["load", "store", "in", "out", "timer"],
)  # fmt: skip
def test_a_device_that_raises_ends_the_machine_and_is_told(machine, when, access):
    booted = machine(f"{access}; jmp .", plugins=load_plugins([BrokenDevicePlugin(when)], installed=False))
    with pytest.raises(GuestError, match=f"LookupError: no such part: {when}"):
        booted.wait(30)
    assert booted.outcome.reason == "died"


def test_machines_leave_nothing_behind(config, fast):
    wanted = config(TICKING)

    def live():
        with anyvisor.boot(wanted, backend=fast) as booted:
            assert booted.wait(30).reason == "reset"

    for _ in range(3):
        live()
    before = held()
    for _ in range(20):
        live()
    after = held()
    assert after[:2] == before[:2]
    assert after[2] <= before[2] + 5


def test_two_vcpus_are_too_many(config, fast):
    with pytest.raises(ConfigError, match="vcpus: 2 are more than the unicorn backend can run here"):
        anyvisor.boot(config(RESET, vcpus=2), backend=fast)
    with pytest.raises(HypervisorUnavailable, match="2 vCPUs are more than the 1"):
        anyvisor.open_hypervisor("auto", load_plugins(installed=False), config(RESET, vcpus=2, deterministic=True))


def test_a_plan_goes_to_the_emulated_processor_by_json(config, fast):
    plan = anyvisor.assemble(config(f"mov 0x202(%rsi), %eax; {PRINT_EAX} {RESET}"), fast.facts)
    again = type(plan).from_json(plan.to_json())
    assert again == plan
    with anyvisor.launch(again, fast) as launched:
        assert launched.start().wait(30).reason == "reset"
        assert launched.console.text == "HdrS"
