"""Guests that wait for interrupts."""

import threading
import time

from emulated_guests import Runner, Source

VECTOR, OTHER_VECTOR = 0x24, 0x31
SAY = "out %al, $OTHER_PORT; iretq"
LIMIT = 20
"""Seconds that something may take on a busy machine."""


def wired(guest, source, *vectors, handler=SAY):
    return guest(source, handlers={VECTOR: handler, OTHER_VECTOR: handler}, interrupts=Source(*vectors))


def interrupt(made, vector=VECTOR):
    made.source.vectors.append(vector)
    made.vcpu.notify_interrupt()


def until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def in_hlt(made):
    """A runner whose guest waits in HLT: it has written to PORT just before."""
    inside = threading.Event()
    made.ports.then = inside.set
    runner = Runner(made)
    assert inside.wait(LIMIT)
    time.sleep(0.01)
    return runner
