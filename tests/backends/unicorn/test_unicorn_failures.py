"""How guests end, and what becomes of one whose device fails."""

import pytest
from emulated_guests import CODE, HALT, SPIN

from anyvisor.exits import Halted, Shutdown
from anyvisor.x86_64.state import Regs, Sregs


@pytest.mark.parametrize(
    "rest", ["", ".byte 0x0f, 0x0b", ".byte 0xff, 0xff, 0xff", "hlt; ud2", "1: hlt; jmp 1b", "jmp ."]
)
def test_hlt_with_interrupts_off_is_halted_and_rip_behind_it_whatever_follows(any_guest, rest):
    made = any_guest(f"nop; cli; hlt; {rest}")
    for _ in range(20):
        made.enter()
        assert made.vcpu.run(made.bus) == Halted()
        assert made.vcpu.get(Regs).rip == CODE + 3


def test_after_halted_the_next_run_goes_on_behind_the_hlt(any_guest):
    made = any_guest("cli; hlt; out %al, $PORT; hlt")
    assert made.run() == Halted()
    assert made.vcpu.run(made.bus) == Halted()
    assert made.ports.writes == [(0, 1, 0)]


def test_an_exception_without_a_handler_is_a_shutdown_and_the_state_stays_readable(any_guest):
    made = any_guest("mov $0x1234, %ebx; ud2")
    assert isinstance(made.run(), Shutdown)
    regs = made.vcpu.get(Regs)
    assert (regs.rip, regs.rbx) == (CODE + 5, 0x1234)
    assert made.vcpu.get(Sregs).cr3 != 0


def test_a_stack_that_is_nowhere_leads_from_any_exception_to_a_shutdown(any_guest):
    made = any_guest("mov $0x100000000000, %rsp; int3", handlers={3: HALT, 8: HALT, 14: HALT})
    assert isinstance(made.run(), Shutdown)


def test_after_a_shutdown_the_vcpu_can_be_set_up_again(any_guest):
    made = any_guest("ud2")
    assert isinstance(made.run(), Shutdown)
    made.handle(6, HALT)
    made.enter()
    assert made.vcpu.run(made.bus) == Halted()


def test_code_that_the_host_changed_while_nobody_ran_is_run_as_it_is_now(any_guest):
    made = any_guest(f"mov $1, %ebx; {HALT}")
    for value in (1, 2, 3):
        made.load(f"mov ${value}, %ebx; {HALT}")
        assert made.run(rbx=0) == Halted()
        assert made.vcpu.get(Regs).rbx == value


def test_code_that_the_guest_changes_is_run_as_it_is_now(any_guest):
    made = any_guest(f"""
        mov $3, %ecx
    1:  call change; dec %ecx; jnz 1b
        {HALT}
    change:
        incb 2f + 1(%rip)
    2:  mov $0, %al
        out %al, $PORT
        ret""")
    assert made.run() == Halted()
    assert made.ports.values == [1, 2, 3]


# -- devices that fail -------------------------------------------------------------------------------------------------


class Broken(Exception):
    """What a device should not raise."""


def failing(number=0):
    def fail(*_):
        raise Broken(number)

    return fail


@pytest.mark.parametrize(
    "access", ["in $PORT, %al", "out %al, $PORT", "mov MMIO, %eax", "mov %eax, MMIO", "mov $PORT, %edx; outsb"]
)
def test_what_a_device_raises_comes_out_of_run(any_guest, access):
    made = any_guest(f"mov $0x5A, %eax; mov $DATA, %esi; {access}; incq DATA; {SPIN}")
    for device in (made.ports, made.mmio):
        device.then = failing()
    with pytest.raises(Broken):
        made.run()
    assert made.vcpu.get(Regs).rip >= CODE


def test_after_a_device_has_raised_the_access_reads_zero_and_the_guest_goes_on(any_guest):
    made = any_guest(f"mov $~0, %eax; in $PORT, %eax; mov $1000000, %ecx; 1: dec %ecx; jnz 1b; incq DATA; {HALT}")
    made.ports.then = failing()
    with pytest.raises(Broken):
        made.run()
    assert made.word() == 0, "it came out soon"
    assert made.vcpu.run(made.bus) == Halted()
    assert (made.vcpu.get(Regs).rax, made.word()) == (0, 1)


def test_of_several_failures_the_first_is_told_and_none_is_told_later(any_guest):
    made = any_guest(f"out %al, $PORT; out %al, $PORT; out %al, $OTHER_PORT; {HALT}")
    made.ports.then, made.others.then = failing(1), failing(2)
    with pytest.raises(Broken, match="1"):
        made.run()
    made.ports.then = made.others.then = lambda: None
    assert made.vcpu.run(made.bus) == Halted()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_any_exception_of_a_device_comes_out(any_guest, error):
    def fail():
        raise error

    made = any_guest("out %al, $PORT; jmp .")
    made.ports.then = fail
    with pytest.raises(error):
        made.run()


@pytest.mark.parametrize("answer", [None, "7", -1, 1 << 80, 1.5])
def test_a_device_that_answers_nonsense_is_an_error_or_cut_to_size(any_guest, answer):
    made = any_guest(f"in $PORT, %eax; mov %eax, DATA; {HALT}")
    made.ports.answers = [answer]
    if isinstance(answer, int):
        assert made.run() == Halted()
        assert made.word() == answer & 0xFFFFFFFF
    else:
        with pytest.raises(TypeError):
            made.run()
