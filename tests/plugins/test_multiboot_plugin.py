"""The plugin of multiboot kernels: which images it takes, which it leaves to others, and the plan that comes of one."""

import gzip

import pytest

import anyvisor_multiboot
from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.errors import KernelImageError
from anyvisor.x86_64.multiboot import Handover
from anyvisor.x86_64.state import Regs, Sregs
from elves import tiny_elf
from multiboot_kernels import elf32, flat

FACTS = generic_facts("x86_64")


@pytest.fixture
def kernel(tmp_path):
    (tmp_path / "kernel").write_bytes(flat())
    return tmp_path / "kernel"


def plan(path, **more):
    return assemble(MachineConfig(kernel=path, memory="64M", **more), FACTS)


def providers(made):
    return {step.hook: step.provided_by for step in made.steps}


@pytest.mark.parametrize("image", [flat(), elf32(), gzip.compress(elf32())], ids=["flat", "elf", "packed"])
def test_an_image_with_the_header_is_booted_by_it(image, kernel):
    kernel.write_bytes(image)
    taken = providers(plan(kernel))
    mine = ("anyvisor_load_kernel", "anyvisor_boot_params", "anyvisor_registers")
    assert {taken[hook] for hook in mine} == {"multiboot"}
    assert "anyvisor_page_tables" not in taken


def test_the_first_processor_starts_in_protected_mode_with_the_magic_number(kernel):
    made = plan(kernel, vcpus=2)
    regs, change = made.vcpus[0].state(Regs), made.vcpus[0].state(Sregs)
    assert (regs.rip, regs.rax, regs.rbx, regs.rflags, regs.rsp) == (0x100020, 0x2BADB002, 0x6000, 2, 0)
    fields = change.fields
    assert (fields["cr0"], fields["cr4"], fields["efer"]) == (0x11, 0, 0)
    code, data = fields["cs"], fields["ds"]
    assert (code.base, code.limit, code.type & 0xA, code.db, code.l) == (0, 0xFFFFFFFF, 0xA, True, False)
    assert (data.base, data.limit, data.type & 0xA, data.db) == (0, 0xFFFFFFFF, 2, True)
    assert {fields[name] for name in ("es", "fs", "gs", "ss")} == {data}
    assert made.vcpus[1].state(Regs) is made.vcpus[1].state(Sregs) is None


def test_the_plan_holds_what_the_kernel_is_told(kernel, tmp_path):
    (tmp_path / "initrd.img").write_bytes(b"module")
    made = plan(kernel, initrd=tmp_path / "initrd.img", command_line="quiet")
    told = Handover.read(made.read, made.vcpus[0].state(Regs).rbx)
    assert told.command_line(made.read) == "kernel quiet"
    (module,) = told.modules
    assert (module.string, module.mod_start % 4096) == ("initrd.img", 0)
    assert made.read(module.mod_start, module.mod_end - module.mod_start) == b"module"
    by = {blob.name: blob.provided_by for blob in made.blobs}
    assert by["multiboot information"] == by["command line"] == by["kernel"] == "multiboot"


def test_a_linux_kernel_is_left_to_linux(tmp_path):
    made = plan(tiny_elf(tmp_path / "vmlinux"))
    assert providers(made)["anyvisor_load_kernel"] == providers(made)["anyvisor_registers"] == "linux"
    assert "zero page" in {blob.name for blob in made.blobs}


def test_another_protocol_that_is_asked_for_comes_before_the_header(kernel):
    made = plan(kernel, protocol="raw")
    assert providers(made)["anyvisor_load_kernel"] != "multiboot"
    with pytest.raises(KernelImageError, match="neither a bzImage nor an ELF"):
        plan(kernel, protocol="linux64")


def test_multiboot_that_is_asked_for_wants_the_header(tmp_path):
    with pytest.raises(KernelImageError, match="has no multiboot header"):
        plan(tiny_elf(tmp_path / "vmlinux"), protocol="multiboot")


def test_a_broken_multiboot_kernel_is_refused_and_not_taken_for_another(kernel):
    kernel.write_bytes(flat(load=64 << 20))
    with pytest.raises(KernelImageError, match="outside RAM"):
        plan(kernel)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KernelImageError, match="cannot open the kernel: No such file"):
        plan(tmp_path / "none")


@pytest.mark.parametrize("hook", ["anyvisor_boot_params", "anyvisor_registers"])
def test_kernels_of_other_protocols_are_left_to_the_next(hook, kernel):
    from anyvisor.plan import Blob, Kernel

    linux = Kernel("linux64", 0x100000, (Blob("kernel", 0x100000, b"\xf4"),), 2047, 0x7FFFFFFF)
    inputs = {"config": None, "layout": None, "kernel": linux, "initrd": None, "gdt": None, "vcpu": 0}
    function = getattr(anyvisor_multiboot, hook)
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    assert function(*(inputs[name] for name in names)) is None
