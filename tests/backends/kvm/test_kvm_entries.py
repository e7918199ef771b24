"""Kernels of a few bytes on KVM, entered by PVH and by the 32-bit Linux protocol, and flat binaries in every mode."""

import pytest

from anyvisor.config import MachineConfig
from multiboot_kernels import Told, spoken
from pvh_kernels import FORMS, assemble, check_told, seen
from raw_guests import PLACES, raw_config, said_by
from tiny_linux32 import SAYS, bzimage32, elf32

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("form", FORMS)
def test_a_pvh_kernel_is_told_what_the_abi_promises(form, kvm, tmp_path):
    module = tmp_path / "module"
    module.write_bytes(bytes(range(256)) * 20 + b"end")
    kernel = assemble(tmp_path, form)
    config = MachineConfig(kernel=kernel, initrd=module, memory="64M", command_line="one two=3", protocol="pvh")
    told = Told.parse(spoken(config, kvm))
    check_told(told, "one two=3", module.read_bytes(), config.memory)
    assert (seen(told)["ebx"], seen(told)["tr"]) == (0x6000, 0x20)


@pytest.mark.parametrize("image", [elf32, bzimage32])
def test_a_32_bit_kernel_finds_the_zero_page_and_zeros(image, kvm, tmp_path):
    (tmp_path / "kernel").write_bytes(image())
    assert spoken(MachineConfig(kernel=tmp_path / "kernel", memory="64M"), kvm) == SAYS


@pytest.mark.parametrize("place", PLACES)
def test_a_flat_binary_runs_in_its_mode(place, kvm, tmp_path):
    config, expected = raw_config(place, tmp_path)
    assert said_by(config, kvm) == expected
