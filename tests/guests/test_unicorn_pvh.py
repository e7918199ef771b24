"""Kernels with a PVH entry on the emulated processor, beside what QEMU's loader tells the same kernels."""

import shutil

import pytest

from anyvisor.config import MachineConfig
from multiboot_kernels import Told, spoken, told_by_qemu
from pvh_kernels import FORMS, assemble, check_told, seen

pytestmark = pytest.mark.timeout(120)

MEMORY = 64 << 20
COMMAND_LINE = "one two=3"


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "module"
    path.write_bytes(bytes(range(256)) * 20 + b"end")
    return path


@pytest.mark.parametrize("form", FORMS)
def test_a_kernel_is_told_what_the_abi_promises(form, module, tmp_path):
    kernel = assemble(tmp_path, form)
    protocol = "pvh" if "elf64" in form else None
    machine = {"memory": MEMORY, "command_line": COMMAND_LINE, "protocol": protocol}
    config = MachineConfig(kernel=kernel, initrd=module, deterministic=True, **machine)  # no word of a TSC's speed
    told = Told.parse(spoken(config, "unicorn"))
    check_told(told, COMMAND_LINE, module.read_bytes(), MEMORY)
    registers = seen(told)
    assert {name: registers[name] for name in ("ebx", "cs", "ds", "ss", "tr")} == {
        "ebx": 0x6000, "cs": 0x10, "ds": 0x18, "ss": 0x18, "tr": 0x20
    }  # fmt: skip


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="install QEMU (Debian: qemu-system-x86) to judge")
@pytest.mark.parametrize("form", FORMS)
def test_qemu_s_loader_tells_the_same_kernel_the_same(form, module, tmp_path):
    kernel = assemble(tmp_path, form)
    told = told_by_qemu(kernel, tmp_path, COMMAND_LINE, "64M", str(module))
    check_told(told, COMMAND_LINE, module.read_bytes(), MEMORY)
