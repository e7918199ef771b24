"""The tiny kernel, by another reader of ELF than ours."""

import subprocess

import pytest

from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.testing.kernels import HALT, LOAD_ADDRESS, tiny_kernel
from anyvisor.x86_64.state import Regs


def test_readelf_finds_one_segment_with_the_code_and_no_complaint(tmp_path):
    path = tiny_kernel(tmp_path / "vmlinux", b"\x90\x90\xf4", memory_bytes=0x3000)
    done = subprocess.run(["readelf", "-lhW", path], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert "Advanced Micro Devices X86-64" in done.stdout and "EXEC (Executable file)" in done.stdout
    (segment,) = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["LOAD"]]
    offset, virtual, physical, file_bytes, memory_bytes = (int(each, 16) for each in segment[1:6])
    assert (virtual, physical, file_bytes, memory_bytes) == (LOAD_ADDRESS, LOAD_ADDRESS, 3, 0x3000)
    assert path.read_bytes()[offset : offset + 3] == b"\x90\x90\xf4"
    assert segment[6:8] == ["R", "E"]


@pytest.mark.parametrize("code", [HALT, bytes(0x2345)])
def test_a_plan_enters_it_at_its_code(tmp_path, code):
    plan = assemble(MachineConfig(kernel=tiny_kernel(str(tmp_path / "vmlinux"), code)), generic_facts())
    assert plan.vcpus[0].state(Regs).rip == LOAD_ADDRESS
    assert plan.read(LOAD_ADDRESS, len(code)) == code
