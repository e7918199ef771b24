"""Kernels of a few bytes on the emulated processor, by the 32-bit Linux protocol, and flat binaries in every mode."""

import pytest

from anyvisor.config import MachineConfig
from multiboot_kernels import spoken
from raw_guests import PLACES, raw_config, said_by
from tiny_linux32 import SAYS, bzimage32, elf32


@pytest.mark.parametrize("image", [elf32, bzimage32])
def test_a_32_bit_kernel_finds_the_zero_page_and_zeros(image, tmp_path):
    (tmp_path / "kernel").write_bytes(image())
    assert spoken(MachineConfig(kernel=tmp_path / "kernel", memory="64M"), "unicorn") == SAYS


@pytest.mark.parametrize("place", PLACES)
def test_a_flat_binary_runs_in_its_mode(place, tmp_path):
    config, expected = raw_config(place, tmp_path)
    assert said_by(config, "unicorn") == expected
