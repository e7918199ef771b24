"""Multiboot kernels on KVM: a few dozen bytes, and one that tells all that it was given."""

import struct

import pytest

from anyvisor.config import MachineConfig
from multiboot_kernels import FORMS, LOADED, SPEAK, Told, assemble, check_told, elf32, flat, header, spoken

pytestmark = pytest.mark.kvm

HAND_MADE = {
    "elf": elf32(((LOADED, header() + SPEAK, 0x1000),)),
    "upper half": elf32(((LOADED, header() + SPEAK, 0x1000),), virtual=0xC0000000),
    "flat": flat(),
    "behind": flat(before=bytes(8192 - 32), skip=8192 - 32),
}


@pytest.mark.parametrize("form", HAND_MADE)
def test_a_kernel_made_by_hand_finds_the_magic_number_and_the_structure(form, kvm, tmp_path):
    (tmp_path / "kernel").write_bytes(HAND_MADE[form])
    said = spoken(MachineConfig(kernel=tmp_path / "kernel", memory="64M"), kvm)
    assert struct.unpack("<5I", said) == (0x2BADB002, 0x6000, 0b1001000101, 632, 63 << 10)


@pytest.mark.parametrize("form", FORMS)
def test_a_kernel_made_by_the_linker_is_told_what_the_specification_promises(form, kvm, tmp_path):
    module = tmp_path / "module"
    module.write_bytes(bytes(range(256)) * 20 + b"end")
    kernel = assemble(tmp_path, form)
    config = MachineConfig(kernel=kernel, initrd=module, memory="64M", command_line="one two=3")
    told = Told.parse(spoken(config, kvm))
    check_told(told, "anyvisor", f"{kernel.name} one two=3", module.read_bytes(), config.memory)


def test_other_processors_wait_to_be_woken(kvm, tmp_path):
    (tmp_path / "kernel").write_bytes(flat())
    said = spoken(MachineConfig(kernel=tmp_path / "kernel", memory="64M", vcpus=2), kvm)
    assert len(said) == 20  # one of them spoke
