"""The self-test asks the real engine: what it proves is so, and what it must catch is there to be caught."""

import ctypes
import os
import struct
import threading

import pytest

from anyvisor_unicorn import halt_flag, layout, proof
from anyvisor_unicorn.engine import Engine
from anyvisor_unicorn.features import native_cpuid
from anyvisor_unicorn.guests import CODE, DATA, MMIO, Disproof, guest
from anyvisor_unicorn.proof import Proof, prove

LAYOUT = ("RIP", "RFLAGS", "CC_SRC", "CR2", "CR3", "CR0", "CR4", "EFER", "STAR", "LSTAR", "CSTAR", "FMASK", "CC_OP",
          "DF", "HFLAGS", "ERROR_CODE", "IS_SOFTWARE", "OLD_EXCEPTION")  # fmt: skip
"""All that `layout` believes but the general registers, which have an order, and the segments."""


def test_this_unicorn_is_vouched_for():
    proof.prove.cache_clear()
    found = prove()
    assert found.problem == ""
    assert None not in (found.counter_offset, found.exit_flag_offset, found.halt_flag)


def test_the_proof_finds_the_same_again_and_again():
    first = prove()
    for _ in range(5):
        proof.prove.cache_clear()
        again = prove()
        assert (again.counter_offset, again.exit_flag_offset, again.halt_flag) == (
            first.counter_offset, first.exit_flag_offset, first.halt_flag,
        )  # fmt: skip


def test_the_proof_leaves_nothing_behind():
    def held():
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208

    proof.prove.cache_clear()
    prove()
    before = held()
    for _ in range(5):
        proof.prove.cache_clear()
        prove()
    assert held() == before


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_the_flag(monkeypatch):
    """The engine as Unicorn has it."""
    monkeypatch.setattr(proof, "set_exit_flag", lambda engine, offset: None)
    proof.prove.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    proof.prove.cache_clear()


def test_without_the_flag_the_engine_does_accesses_twice_and_the_proof_sees_it(without_the_flag):
    with pytest.raises(Disproof, match="stopped by a device, the engine did a store"):
        proof.prove_stops_are_exact(0)


def test_without_the_flag_increments_are_done_twice_and_the_proof_sees_it(without_the_flag):
    without_the_flag.setattr(proof, "_prove_stop_in_an_access", lambda offset: None)

    def prove_several_times():  # one run may be lucky
        for _ in range(20):
            proof.prove_stops_are_exact(0)

    with pytest.raises(Disproof, match=r"stopped \d+ times, the engine counted \d+ instead of"):
        prove_several_times()


def test_without_the_flag_the_engine_is_only_run_by_count(without_the_flag):
    found = prove()
    assert found.exit_flag_offset is None
    assert found.halt_flag is None
    assert found.counter_offset is not None
    assert "store" in found.problem


def test_with_the_flag_stops_are_exact():
    offset = prove().exit_flag_offset
    for _ in range(10):
        proof.prove_stops_are_exact(offset)


@pytest.mark.parametrize("shift", [-2, -1, 1, 2, 8])
def test_another_byte_than_the_flag_is_not_taken_for_it(shift):
    """Setting a neighbour of it changes nothing that helps."""
    structure = prove().exit_flag_offset + shift
    with guest(b"\xf4") as (engine, _):
        assert proof.find_exit_flag(engine) != structure


def test_flags_that_look_otherwise_are_refused(monkeypatch):
    with guest(b"\xf4") as (engine, _):
        flag = proof.find_exit_flag(engine)
        proof.set_exit_flag(engine, flag)
        with pytest.raises(Disproof, match="flags have other values"):
            proof.find_exit_flag(engine)
        monkeypatch.setattr(engine, "context_bytes", 1234)
        with pytest.raises(Disproof, match="flags are not where"):
            proof.find_exit_flag(engine)


# -- the layout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUT)
def test_a_word_that_lies_elsewhere_is_a_disproof(monkeypatch, name):
    """Each constant that is believed is also asked for."""
    at = getattr(layout, name)
    for wrong in {at - 1, at + 1} - {-1}:
        monkeypatch.setattr(layout, name, wrong)
        with pytest.raises((Disproof, IndexError)):
            proof.prove_layout()
    monkeypatch.setattr(layout, name, at)
    proof.prove_layout()


def test_the_order_of_the_general_registers_is_the_one_that_is_asked_for():
    names = ("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI")
    assert [getattr(layout, name) for name in names] == list(range(8))
    assert proof.GENERAL[:8] == tuple(getattr(proof.x86, f"UC_X86_REG_{name}") for name in names)
    assert proof.GENERAL[layout.R11] == proof.x86.UC_X86_REG_R11


@pytest.mark.parametrize("segment", ["FS", "DS", "GDT", "IDT"])
def test_a_segment_that_lies_elsewhere_is_a_disproof(monkeypatch, segment):
    monkeypatch.setattr(layout, segment, getattr(layout, segment) - 1)
    with pytest.raises(Disproof):
        proof.prove_layout()


def test_a_disproof_comes_out_as_what_it_is(monkeypatch):
    """And not as trouble with giving the guest's memory back."""
    monkeypatch.setattr(layout, "RIP", 3)
    with pytest.raises(Disproof, match=r"is not where it is in the Unicorn that is known: 0x\w+ instead of 0x\w+"):
        proof.prove_layout()


# -- the count and HLT -------------------------------------------------------------------------------------------------


def test_the_count_is_that_of_instructions():
    at = prove().counter_offset
    for instructions in (1, 2, 3, 999):
        with guest(bytes([0x90] * (instructions - 1) + [0xF4])) as (engine, _):
            engine.start(CODE, 5000)
            assert struct.unpack("<QQ", ctypes.string_at(engine.address + at, 16)) == (instructions, 5000)


def test_the_flag_for_hlt_tells_it_from_a_stop():
    found = prove()
    code = bytes([0xFF, 0x03,            # again: inc dword [rbx]
                  0xE6, 0x10,            # out 0x10, al
                  0xEB, 0x00,            # jmp next
                  0xF4,                  # next: hlt
                  0xEB, 0xF7])  # jmp again      # fmt: skip
    with guest(code) as (engine, ram):
        proof.set_exit_flag(engine, found.exit_flag_offset)
        flag = found.halt_flag.of(engine)
        engine.hook_out(lambda *_: engine.stop())
        engine.write(proof.GENERAL[3], DATA)
        rip, seen = CODE, []
        for _ in range(10):
            engine.start(rip)
            rip = engine.read(proof.x86.UC_X86_REG_RIP)
            seen.append((rip - CODE, flag.value))
        assert seen == [(6, 0), (7, 1)] * 5
        assert int.from_bytes(ram[DATA : DATA + 4], "little") == 5


def test_a_processor_that_is_not_to_be_found_is_a_disproof(monkeypatch):
    monkeypatch.setattr(halt_flag, "REACH_BYTES", 0x100)
    with pytest.raises(Disproof, match="processor is not to be found"):
        halt_flag.find_halt_flag(lambda engine: None)


def test_an_engine_that_does_not_stop_where_it_should_is_a_disproof():
    with pytest.raises(Disproof):
        halt_flag.find_halt_flag(lambda engine: proof.set_exit_flag(engine, prove().exit_flag_offset - 1))


def test_memory_is_read_by_the_kernel_as_far_as_there_is_any():
    buffer = ctypes.create_string_buffer(b"some words", 0x3000)
    kernel = halt_flag.Kernel()
    assert b"".join(kernel.read(ctypes.addressof(buffer), 0x3000)) == buffer.raw
    assert b"".join(kernel.read(0x10, 0x1000)) == b""
    assert b"".join(kernel.read((1 << 47) - 0x100, 0x1000)) == b""
    kernel.close()


# -- what it means -----------------------------------------------------------------------------------------------------


def test_only_engines_that_run_freely_are_touched():
    offset = prove().exit_flag_offset
    for counted, value in ((True, 0), (False, 1)):
        engine = Engine()
        prove().prepare(engine, counted=counted)
        assert ctypes.c_uint8.from_address(engine.address + offset).value == value
        engine.close()


def test_an_engine_may_be_closed_twice():
    engine = Engine()
    engine.close()
    engine.close()


def test_a_proof_without_the_flag_prepares_nothing():
    engine = Engine()
    before = ctypes.string_at(engine.address, 0x900)
    Proof(1, None).prepare(engine, counted=False)
    assert ctypes.string_at(engine.address, 0x900) == before
    engine.close()


def test_the_engines_cpuid_is_asked_once():
    assert native_cpuid() is native_cpuid()


def test_mmio_lies_in_the_guests_second_gib():
    seen = []
    with guest(bytes([0x8A, 0x07, 0xF4])) as (engine, _):  # mov al, [rdi]; hlt
        engine.map_mmio(MMIO, 0x1000, lambda *args: seen.append(args[1]) or 7, lambda *_: None)
        engine.write(proof.x86.UC_X86_REG_RDI, MMIO + 0x10)
        engine.start(CODE)
        assert (seen, engine.read(proof.x86.UC_X86_REG_RAX) & 0xFF) == ([0x10], 7)
