"""What becomes of translated code while the guest stands: it is kept, unless the host may have written to memory.

A guest that is paused every few milliseconds would otherwise translate its code again and again, and do little else.
"""

import ctypes

import pytest
from emulated_guests import CODE, assemble

from anyvisor.exits import Kicked


def telling(value):
    """A guest that writes a value to PORT for ever."""
    return f"1: mov ${value}, %al; out %al, $PORT; jmp 1b"


@pytest.fixture
def told(any_guest):
    """A guest that tells 1, and a function that lets it go on until it has told something."""
    made = any_guest(telling(1))
    made.ports.then = made.vcpu.kick

    def next_value():
        assert made.vcpu.run(made.bus) == Kicked()
        return made.ports.values[-1]

    assert next_value() == 1
    return made, next_value


def test_code_that_the_host_has_changed_is_what_runs(told):
    made, next_value = told
    for value in (2, 3):
        made.load(telling(value))
        assert [next_value(), next_value()] == [value, value]


def test_code_that_is_changed_through_a_view_is_what_runs_whenever_that_is_done(told):
    made, next_value = told
    with made.memory.view(CODE, 0x10) as view:
        for value in (2, 3):
            code = assemble(telling(value))
            view[: len(code)] = code
            assert [next_value(), next_value()] == [value, value]


def test_a_run_goes_on_with_what_is_translated(told):
    made, next_value = told
    code = assemble(telling(2))
    ctypes.memmove(made.memory.regions[0].host_address + CODE, code, len(code))  # as nobody should
    assert [next_value(), next_value()] == [1, 1]
    made.memory.write(CODE + 0x100, b"x")
    assert next_value() == 2
