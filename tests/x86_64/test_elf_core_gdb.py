"""A kernel stopped where it is known to be, on an emulated processor and on this host's KVM, as gdb sees it."""

import subprocess
from pathlib import Path

import pytest

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.death_dump import dump_machine
from elf_cores import check_by_readelf, gdb, tool
from needed_kvm import need_kvm

TESTS = Path(__file__).parents[1]
FLAGS = ["-g", "-O0", "-static", "-nostdlib", "-no-pie", "-fno-pic", "-ffreestanding", "-mcmodel=kernel"]
FLAGS += ["-mno-red-zone", "-fcf-protection=none", "-fno-stack-protector"]


@pytest.fixture(scope="session")
def spinning_kernel(tmp_path_factory):
    kernel = tmp_path_factory.mktemp("spinning") / "vmlinux"
    linking = f"-Wl,--build-id=none,-z,max-page-size=4096,--no-warn-rwx-segments,-T,{TESTS / 'spinning_kernel.lds'}"
    source = TESTS / "spinning_kernel.c"
    subprocess.run([tool("gcc", "gcc"), *FLAGS, linking, "-o", kernel, source], check=True, timeout=60)
    return kernel


@pytest.fixture(params=["unicorn", pytest.param("kvm", marks=pytest.mark.kvm)])
def stopped(request, spinning_kernel, tmp_path):
    """A core of the kernel, stopped in its loop."""
    if request.param == "kvm":
        need_kvm()
    with anyvisor.boot(MachineConfig(kernel=spinning_kernel, memory="64M"), backend=request.param) as machine:
        machine.console.expect("spinning\n", timeout=30)
        machine.pause()
        return dump_machine(machine, tmp_path / "dump").files["core"]


def test_gdb_shows_where_the_guest_is_and_how_it_got_there(spinning_kernel, stopped):
    check_by_readelf(stopped)
    commands = ["bt", "info registers rip", "p banner", "p turns > 0", "frame function inner", "info locals"]
    said = gdb(spinning_kernel, stopped, commands=[*commands, "x/s 0x4000000000000000 + ((long)&banner & 0x7fffffff)"])
    frames = [line.split(" at ")[-1] for line in said.splitlines() if line.startswith("#")]
    order = [said.index(f"{name} (") for name in ("spin_here", "inner", "outer")]
    assert order == sorted(order), said
    assert all("spinning_kernel.c:" in frame for frame in frames[:4]), said
    assert "<spin_here+" in said
    assert "number = 42}" in said
    assert '= "a kernel that spins, version 1"' in said and ':\t"a kernel that spins' in said
    assert "warning" not in said.lower(), said
    assert "error" not in said.lower() and "Cannot access" not in said, said
