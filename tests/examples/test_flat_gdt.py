"""The stranger's boot steps in examples/: found, at work in plans and in a booted guest, and tested by their author."""

import json
import os
import re
import tomllib

import pytest
from strangers import EXAMPLES, Stranger

from anyvisor.testing.kernels import tiny_kernel

PROJECT = EXAMPLES / "anyvisor-flat-gdt"
SOURCE, TESTS = PROJECT / "src/anyvisor_flat_gdt.py", PROJECT / "tests/test_flat_gdt.py"
USER_CODE_ACCESS = 0xFB
"""Present, privilege level 3, code that can be read and was accessed (SDM Vol. 3, figure 3-8)."""

# fmt: off
CODE = bytes([0x0F, 0x01, 0x44, 0x24, 0xF0,   # sgdt [rsp - 16]
              0x48, 0x8B, 0x44, 0x24, 0xF2,   # mov rax, [rsp - 14]   where the GDT lies
              0x8A, 0x40, 0x3D,               # mov al, [rax + 0x3d]  the access byte of selector 0x38
              0xBA, 0xF8, 0x03, 0x00, 0x00,   # mov edx, 0x3f8
              0xEE,                           # out dx, al
              0xB8, 0x01, 0x00, 0x00, 0x00,   # mov eax, 1
              0x0F, 0xA2,                     # cpuid
              0xC1, 0xE9, 0x1A,               # shr ecx, 26           XSAVE
              0x83, 0xE1, 0x01,               # and ecx, 1
              0x89, 0xC8,                     # mov eax, ecx
              0xBA, 0xF8, 0x03, 0x00, 0x00,   # mov edx, 0x3f8
              0xEE,                           # out dx, al
              0xB0, 0xFE,                     # mov al, 0xfe
              0xE6, 0x64,                     # out 0x64, al          reset
              0xEB, 0xFE])                    # jmp .
# fmt: on

BOOT = """
import sys, anyvisor
config = anyvisor.MachineConfig(kernel=sys.argv[1], memory="64M")
with anyvisor.boot(config, sys.argv[2]) as machine:
    reason = machine.wait(timeout=30).reason
    print(reason, *(f"{byte:#x}" for byte in machine.console.read_output()[0]))
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Stranger(PROJECT, tmp_path_factory.mktemp("flat-gdt"))


@pytest.fixture
def kernel(tmp_path):
    return tiny_kernel(tmp_path / "vmlinux", CODE)


def test_it_is_found_by_its_entry_point(stranger):
    found = {each["name"]: each for each in json.loads(stranger.anyvisor("plugins", "--json"))["plugins"]}
    assert found["flat-gdt"]["distribution"] == "anyvisor-flat-gdt"
    assert set(found["flat-gdt"]["hooks"]) == {"anyvisor_gdt", "anyvisor_cpuid", "anyvisor_acpi"}


def test_a_plan_shows_its_work(stranger, kernel):
    shown = stranger.anyvisor("plan", str(kernel), "--cpus", "2")
    steps = shown.partition("Steps\n")[2].splitlines()
    assert {" ".join(line.split()) for line in steps} >= {
        "anyvisor_gdt flat-gdt",
        "anyvisor_acpi linux, dropped by flat-gdt",
        "anyvisor_cpuid linux, adjusted by flat-gdt",
    }
    assert re.search(r"0x0038 .* 3 +0xa0fb +code64", shown)
    assert "ACPI tables\n  none\n" in shown


def test_its_own_tests_pass(stranger):
    assert re.search(r"^1[5-9] passed in", stranger.tests(), re.MULTILINE)


def test_a_booted_guest_finds_its_work(stranger, kernel):
    """On the emulated processor, which has XSAVE otherwise."""
    said = stranger.output("python", "-c", BOOT, str(kernel), "unicorn")
    assert said.split() == ["reset", hex(USER_CODE_ACCESS), "0x0"]


def test_a_guest_of_kvm_finds_its_gdt(stranger, kernel):
    """Where KVM interprets its guests, the processor itself answers CPUID, so that is not looked at here."""
    status = {each["name"]: each for each in json.loads(stranger.anyvisor("backends", "--json"))}["kvm"]
    if not status["available"]:
        assert os.environ.get("CI") != "true", status["reason"]
        pytest.skip(f"to run this: {status['reason']}; {status['remedy']}")
    said = stranger.output("python", "-c", BOOT, str(kernel), "kvm")
    assert said.split()[:2] == ["reset", hex(USER_CODE_ACCESS)]


def test_it_is_a_project_as_a_stranger_has_it():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["anyvisor"] == {"flat-gdt": SOURCE.stem}
    assert (PROJECT / project["readme"]).is_file()
    assert "StepTests" in TESTS.read_text()
