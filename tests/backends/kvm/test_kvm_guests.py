"""Tiny guests on the real thing: what the guest does, the devices see, and the other way round."""

import gc
import struct
import threading

import attrs
import pytest
from tiny_guests import (
    CRASH,
    HALT,
    MMIO,
    OTHER_PORT,
    PORT,
    RAM_BYTES,
    SMALLEST,
    SPIN,
    WAIT_FOR_INTERRUPT,
    Guest,
    handle_interrupt,
    held,
    long_mode,
    protected_mode,
)

from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.exits import Halted, InternalError, Kicked, Shutdown, UnknownExit
from anyvisor.memory import GuestMemory, Region
from anyvisor.x86_64.chips import Irqchip, Pit
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.state import Activity, DescriptorTable, MpState, Regs, Sregs

pytestmark = pytest.mark.kvm


def test_port_writes_of_all_sizes_reach_the_device(guest):
    code = bytes([0xB0, 0x11,                          # mov al, 0x11
                  0xE6, PORT,                          # out PORT, al
                  0xB8, 0x22, 0x33,                    # mov ax, 0x3322
                  0xE7, PORT,                          # out PORT, ax
                  0x66, 0xB8, 0x44, 0x55, 0x66, 0x77,  # mov eax, 0x77665544
                  0x66, 0xE7, PORT,                    # out PORT, eax
                  0xE6, PORT + 3,                      # out PORT + 3, al
                  0xF4])  # hlt  # fmt: skip
    made = guest(code)
    assert made.run() == Halted()
    assert made.ports.writes == [(0, 1, 0x11), (0, 2, 0x3322), (0, 4, 0x77665544), (3, 1, 0x44)]


READ_ALL_SIZES = bytes([0xE4, PORT, 0xE6, OTHER_PORT,                    # in al, PORT;  out OTHER_PORT, al
                        0xE5, PORT, 0xE7, OTHER_PORT,                    # in ax, PORT;  out OTHER_PORT, ax
                        0x66, 0xE5, PORT, 0x66, 0xE7, OTHER_PORT,        # in eax, PORT; out OTHER_PORT, eax
                        0xF4])  # hlt  # fmt: skip


def test_port_reads_of_all_sizes_reach_the_guest(guest):
    made = guest(READ_ALL_SIZES, answers=[0xA1, 0xB2C3, 0xD4E5F607])
    assert made.run() == Halted()
    assert made.ports.reads == [(0, 1), (0, 2), (0, 4)]
    assert made.others.values == [0xA1, 0xB2C3, 0xD4E5F607]


def test_a_device_that_answers_too_much_is_cut_to_size(guest):
    made = guest(READ_ALL_SIZES, answers=[0x1FF, -1, 1 << 70])
    assert made.run() == Halted()
    assert made.others.values == [0xFF, 0xFFFF, 0]


def test_a_port_nobody_claims_reads_as_ones(guest):
    made = guest(bytes([0xE4, 0x77, 0xF4]))  # in al, 0x77; hlt
    assert made.run() == Halted()
    assert made.vcpu.get(Regs).rax == 0xFF


@pytest.mark.parametrize(
    ("opcode", "size"),
    [([0xF3, 0x6E], 1), ([0xF3, 0x6F], 2), ([0xF3, 0x66, 0x6F], 4)],
    ids=["outsb", "outsw", "outsd"],
)
def test_repeated_string_output_arrives_item_by_item(guest, opcode, size):
    made = guest(bytes([*opcode, 0xF4]))  # rep outs; hlt
    data = bytes(range(1, 1 + 5 * size))
    made.memory.write(0x1000, data)
    made.vcpu.put(attrs.evolve(sregs := made.vcpu.get(Sregs), ds=sregs.es))
    assert made.run(rsi=0x1000, rcx=5, rdx=PORT) == Halted()
    assert made.ports.writes == [
        (0, size, int.from_bytes(data[i : i + size], "little")) for i in range(0, 5 * size, size)
    ]
    assert made.vcpu.get(Regs).rcx == 0


@pytest.mark.parametrize(
    ("opcode", "size"),
    [([0xF3, 0x6C], 1), ([0xF3, 0x6D], 2), ([0xF3, 0x66, 0x6D], 4)],
    ids=["insb", "insw", "insd"],
)
def test_repeated_string_input_fills_memory(guest, opcode, size):
    answers = [(0x1122334455667788 >> i) & ((1 << 8 * size) - 1) for i in range(20)]
    made = guest(bytes([*opcode, 0xF4]), answers=answers)  # rep ins; hlt
    assert made.run(rdi=0x2000, rcx=20, rdx=PORT) == Halted()
    assert made.memory.read(0x2000, 20 * size) == b"".join(each.to_bytes(size, "little") for each in answers)


class BrokenError(Exception):
    """What a broken device raises."""


@pytest.mark.parametrize(("opcode", "direction"), [([0xF3, 0x6C], "read"), ([0xF3, 0x6E], "write")])
def test_an_error_amid_string_io_that_somebody_keeps_does_not_keep_the_vcpu(kvm, opcode, direction):
    before = held()
    made = Guest(kvm, bytes([*opcode, 0xF4]), answers=[1, 2, 3, 4])  # rep insb, or rep outsb; hlt

    def break_down():
        raise BrokenError

    made.ports.then = break_down
    made.vcpu.put(attrs.evolve(sregs := made.vcpu.get(Sregs), ds=sregs.es))
    with pytest.raises(BrokenError) as kept:
        made.run(rdi=0x2000, rcx=4, rdx=PORT)
    made.close()
    assert held() == before
    assert getattr(made.ports, f"{direction}s"), "the device was reached"
    assert kept.traceback


def test_a_vcpu_whose_run_page_is_still_looked_at_is_closed_all_the_same(kvm):
    before = held()
    made = Guest(kvm, SMALLEST)
    kept = made.vcpu._page.u8[:8]
    made.close()
    assert (made.vm.closed, made.vcpu._fd.number) == (True, -1)
    assert held() == (before[0] + 1, before[1] + 1, before[2]), (
        "the mapping, and the descriptor that Python keeps with it"
    )
    kept.release()
    del made
    gc.collect()
    assert held() == before


def test_mmio_writes_of_all_sizes_reach_the_device(guest):
    code = bytes([0xC6, 0x06, 0, 0, 0x5A,                          # mov byte [0], 0x5a
                  0xC7, 0x06, 2, 0, 0x34, 0x12,                    # mov word [2], 0x1234
                  0x66, 0xC7, 0x06, 4, 0, 0x78, 0x56, 0x34, 0x92,  # mov dword [4], 0x92345678
                  0xF4])  # hlt  # fmt: skip
    made = guest(code)
    assert made.run() == Halted()
    assert made.mmio.writes == [(0, 1, 0x5A), (2, 2, 0x1234), (4, 4, 0x92345678)]


def test_mmio_reads_of_all_sizes_reach_the_guest(guest):
    code = bytes([0xA0, 8, 0, 0xE6, PORT,                    # mov al, [8];    out PORT, al
                  0xA1, 10, 0, 0xE7, PORT,                   # mov ax, [10];   out PORT, ax
                  0x66, 0xA1, 12, 0, 0x66, 0xE7, PORT,       # mov eax, [12];  out PORT, eax
                  0xF4])  # hlt  # fmt: skip
    made = guest(code, answers=[0x1A1, 0xB2C3, 0xD4E5F607])
    assert made.run() == Halted()
    assert made.mmio.reads == [(8, 1), (10, 2), (12, 4)]
    assert made.ports.values == [0xA1, 0xB2C3, 0xD4E5F607]


def test_an_access_over_a_page_boundary_comes_in_parts_that_devices_know(guest):
    code = bytes([0x66, 0xA3, 0xFD, 0x0F,      # mov [0xffd], eax
                  0x66, 0xA1, 0xFD, 0x1F,      # mov eax, [0x1ffd]
                  0x66, 0xE7, PORT,            # out PORT, eax
                  0xF4])  # hlt  # fmt: skip
    made = guest(code, answers=[0x11, 0x3322, 0x44])
    assert made.run(rax=0xDDCCBBAA) == Halted()
    assert made.mmio.writes == [(0xFFD, 1, 0xAA), (0xFFE, 2, 0xCCBB), (0x1000, 1, 0xDD)]
    assert made.mmio.reads == [(0x1FFD, 1), (0x1FFE, 2), (0x2000, 1)]
    assert made.ports.values == [0x44332211]


def test_a_readonly_region_can_be_read_and_writes_go_to_the_bus(guest):
    code = bytes([0xA0, 0x34, 0, 0xE6, PORT,            # mov al, [0x34]; out PORT, al
                  0xC6, 0x06, 0x34, 0, 0x5A, 0xF4])  # mov byte [0x34], 0x5a; hlt  # fmt: skip
    made = guest(code)
    with GuestMemory([Region(MMIO, 0x1000, "ROM")]) as rom:
        rom.write(MMIO + 0x34, b"\x77")
        made.vm.map_memory(next(iter(rom)), readonly=True)
        assert made.run() == Halted()
        assert (made.ports.values, made.mmio.writes) == ([0x77], [(0x34, 1, 0x5A)])
        assert rom.read(MMIO + 0x34, 1) == b"\x77"
        made.vm.close()


def test_32_bit_protected_mode(guest):
    code = bytes([0xA1, 0x20, 0, 0, 0xD0,               # mov eax, [0xd0000020]
                  0x05, 1, 0, 0, 0,                     # add eax, 1
                  0xE7, PORT,                           # out PORT, eax
                  0xF4])  # hlt  # fmt: skip
    made = guest(code, mmio_start=0xD0000000, answers=[0x1233FFFF])
    protected_mode(made.vcpu)
    assert made.run() == Halted()
    assert (made.mmio.reads, made.ports.writes) == ([(0x20, 4)], [(0, 4, 0x12340000)])


def test_64_bit_long_mode_with_mmio_of_8_bytes(guest):
    code = bytes([0x48, 0xB8, *struct.pack("<Q", 0x9122334455667788),  # mov rax, 0x9122334455667788
                  0x48, 0xBB, *struct.pack("<Q", 0x10000000),          # mov rbx, 0x10000000
                  0x48, 0x89, 0x03,                                    # mov [rbx], rax
                  0x48, 0x8B, 0x43, 0x08,                              # mov rax, [rbx + 8]
                  0xE7, PORT,                                          # out PORT, eax
                  0x48, 0xC1, 0xE8, 0x20,                              # shr rax, 32
                  0xE7, PORT,                                          # out PORT, eax
                  0xF4])  # hlt  # fmt: skip
    made = guest(code, mmio_start=0x10000000, answers=[0xFEDCBA9876543210])
    long_mode(made.vcpu, made.memory)
    assert made.run() == Halted()
    assert made.mmio.writes == [(0, 8, 0x9122334455667788)]
    assert made.mmio.reads == [(8, 8)]
    assert made.ports.values == [0x76543210, 0xFEDCBA98]


def test_an_interrupt_line_wakes_a_halted_guest(guest):
    made = guest(WAIT_FOR_INTERRUPT, irqchip=True)
    handle_interrupt(made.memory)
    made.ports.then = lambda: made.vm.set_irq(4, True)
    made.others.then = made.vcpu.kick
    assert made.run(rsp=0x8000) == Kicked()
    assert made.others.values == [0x99]


def test_the_timer_in_the_hypervisor_ticks(guest):
    code = WAIT_FOR_INTERRUPT.replace(b"\xb0\xef", b"\xb0\xfe")  # mov al, 0xfe: line 0 is open
    start_timer = bytes([0xB0, 0x34, 0xE6, 0x43,    # mov al, 0x34; out 0x43, al   channel 0, rate generator
                         0xB0, 0xFF, 0xE6, 0x40,    # mov al, 0xff; out 0x40, al   count, low byte
                         0xB0, 0x0F, 0xE6, 0x40])  # mov al, 0x0f; out 0x40, al   and high  # fmt: skip
    made = guest(start_timer + code, irqchip=True)
    made.vm.put(Pit())
    handle_interrupt(made.memory)
    made.memory.write(0x20 * 4, made.memory.read(0x24 * 4, 4))
    made.others.then = made.vcpu.kick
    assert made.run(rsp=0x8000) == Kicked()
    assert made.others.values == [0x99]


def test_interrupts_need_their_chips(guest):
    with pytest.raises(HypervisorError, match=r"KVM_IRQ_LINE \(gsi 4\): ENXIO"):
        guest().vm.set_irq(4, True)


def test_two_vcpus_run_at_once(guest):
    wait = bytes([0x26, 0xA0, 0x00, 0x10,   # wait: mov al, es:[0x1000]
                  0x84, 0xC0,               # test al, al
                  0x74, 0xF8,               # jz wait
                  0xE6, PORT, 0xF4])  # out PORT, al; hlt  # fmt: skip
    send = bytes([0x26, 0xC6, 0x06, 0x00, 0x10, 0x42, 0xF4])  # mov byte es:[0x1000], 0x42; hlt
    made = guest(wait, vcpus=2)
    made.memory.write(0x200, send)
    made.vcpus[1].put(Regs(rip=0x200))
    waiter = threading.Thread(target=made.run)
    waiter.start()
    assert made.vcpus[1].run(made.bus) == Halted()
    waiter.join(10)
    assert not waiter.is_alive()
    assert made.ports.values == [0x42]


def test_an_application_processor_wakes_at_init_and_sipi(guest):
    def store(register, value):  # mov dword [0xfee00000 + register], value
        return bytes([0xC7, 0x05, *struct.pack("<II", 0xFEE00000 + register, value)])

    spurious, command_low, command_high = 0xF0, 0x300, 0x310
    init, start_at_0x2000 = 0x4500, 0x4602
    wake = store(command_high, 1 << 24) + store(command_low, init) + store(command_low, start_at_0x2000)
    made = guest(store(spurious, 0x1FF) + wake + SPIN, irqchip=True, vcpus=2)
    made.memory.write(0x2000, SMALLEST)
    first, second = made.vcpus
    assert second.get(MpState) == MpState(Activity.UNINITIALIZED)
    made.ports.then = lambda: (first.kick(), second.kick())
    protected_mode(first)
    sleeper = threading.Thread(target=second.run, args=(made.bus,))
    sleeper.start()
    assert made.run() == Kicked()
    sleeper.join(10)
    assert not sleeper.is_alive()
    assert made.ports.writes == [(0, 1, 0)]


def test_a_triple_fault_is_a_shutdown(guest):
    made = guest(CRASH)
    protected_mode(made.vcpu)
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), idt=DescriptorTable(limit=0)))
    assert isinstance(made.run(), Shutdown)


def test_code_outside_ram_is_an_internal_error_with_its_data(guest):
    found = guest(bytes([0xEA, 0, 0, 0x00, 0xE0])).run()  # jmp 0xe000:0
    assert isinstance(found, InternalError)
    assert found.suberror == 1


def test_an_exit_that_nobody_handles_comes_back_by_name_and_does_not_spin(guest):
    made = guest(bytes([0xFB, *SPIN]))  # sti; jmp .
    request_interrupt_window = 0
    made.vcpu._page.u8[request_interrupt_window] = 1
    found = made.run()
    assert isinstance(found, UnknownExit)
    assert (found.number, found.name) == (7, "IRQ_WINDOW_OPEN")


def test_the_error_of_a_device_comes_out_of_run_and_the_vcpu_goes_on(guest):
    made = guest(SMALLEST)

    def break_once():
        made.ports.then = lambda: None
        raise RuntimeError("device on fire")

    made.ports.then = break_once
    with pytest.raises(RuntimeError, match="on fire"):
        made.run(rax=0x42)
    assert made.vcpu.get(Regs).rip == 2
    assert made.vcpu.run(made.bus) == Halted()
    assert made.ports.values == [0x42]


def test_a_read_that_a_device_refuses_is_over_when_run_passes_the_error_on(guest):
    made = guest(bytes([0xE4, PORT, 0xF4]))  # in al, PORT; hlt
    with pytest.raises(IndexError):  # the device has no answers
        made.run()
    assert made.vcpu.get(Regs).rip == 2


def test_the_error_of_a_device_in_half_an_access_leaves_nothing_half_done(guest):
    made = guest(bytes([0x66, 0xA1, 0xFE, 0x0F, 0xF4]), answers=[0x1122, 0x3344])  # mov eax, [0xffe]; hlt

    def break_once():
        made.mmio.then = lambda: None
        raise RuntimeError("device on fire")

    made.mmio.then = break_once
    with pytest.raises(RuntimeError, match="on fire"):
        made.run()
    made.vcpu.put(Regs(rip=4))
    assert made.vcpu.run(made.bus) == Halted()
    assert made.mmio.reads == [(0xFFE, 2), (0x1000, 2)]


def test_a_kick_is_not_lost_when_a_device_raises(guest):
    made = guest(SMALLEST)

    def kick_and_break():
        made.vcpu.kick()
        raise RuntimeError("device on fire")

    made.ports.then = kick_and_break
    with pytest.raises(RuntimeError, match="on fire"):
        made.run()
    assert made.vcpu.run(made.bus) == Kicked()
    assert made.vcpu.run(made.bus) == Halted()


def test_a_region_over_another_is_refused_by_name(guest):
    made = guest()
    refused = r"KVM_SET_USER_MEMORY_REGION \(more RAM 0xf000-0x10fff\): EEXIST"
    with GuestMemory([Region(RAM_BYTES - 0x1000, 0x2000, "more RAM")]) as more:
        (ram,) = more
        with pytest.raises(HypervisorError, match=refused):
            made.vm.map_memory(ram)


def test_a_second_vcpu_of_one_index_is_refused(guest):
    with pytest.raises(HypervisorError, match=r"KVM_CREATE_VCPU \(vCPU 0\): EEXIST"):
        guest().vm.create_vcpu(0)


def test_a_vcpu_is_known_to_the_guest_by_its_hardware_id(kvm):
    with kvm.create_vm() as vm:
        vm.put(Irqchip())
        vcpu = vm.create_vcpu(0, hardware_id=5)
        assert (vcpu.index, vcpu.get(Lapic).id) == (0, 5 << 24)
        with pytest.raises(HypervisorError, match=r"KVM_CREATE_VCPU \(vCPU 1 with id 0x5\): EEXIST"):
            vm.create_vcpu(1, hardware_id=5)


def test_chips_after_the_first_vcpu_are_refused(guest):
    with pytest.raises(HypervisorError, match="KVM_CREATE_IRQCHIP: EINVAL"):
        guest().vm.put(Irqchip())


def test_a_state_of_the_wrong_owner_is_unsupported(guest):
    made = guest(HALT)
    with pytest.raises(Unsupported, match="no Irqchip here; it has Cpuid, MpState"):
        made.vcpu.get(Irqchip)
    with pytest.raises(Unsupported, match="no Regs here; it has Irqchip, Pit, Clock"):
        made.vm.put(Regs())
