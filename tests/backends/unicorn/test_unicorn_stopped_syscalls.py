"""SYSCALL while other threads stop the engine: each is carried out, and once."""

import threading

import pytest
from emulated_guests import HANDLERS, Runner, assemble

from anyvisor.exits import Halted

SYSCALLS = 60_000
LOOP = """
    mov $0xC0000082, %ecx               # LSTAR
    mov $HANDLERS, %eax
    xor %edx, %edx
    wrmsr
    mov $0xC0000081, %ecx               # STAR: kernel code at 0x10
    xor %eax, %eax
    mov $0x10, %edx
    wrmsr
    xor %ebx, %ebx
again:
    syscall
    dec %r8
    jnz again
    mov %rbx, DATA
    cli; hlt
"""


@pytest.mark.timeout(120)
def test_no_syscall_is_lost_or_done_twice_however_often_the_engine_is_stopped(guest):
    made = guest(LOOP)
    made.memory.write(HANDLERS, assemble("inc %rbx; jmp *%rcx", HANDLERS))
    made.enter(r8=SYSCALLS)
    runner = Runner(made)
    ended = threading.Event()

    def storm():
        while not ended.wait(50e-6):
            made.vcpu.notify_interrupt()

    storms = [threading.Thread(target=storm) for _ in range(2)]
    for each in storms:
        each.start()
    try:
        assert runner.result(100) == Halted()
    finally:
        ended.set()
        for each in storms:
            each.join()
    assert made.word() == SYSCALLS
