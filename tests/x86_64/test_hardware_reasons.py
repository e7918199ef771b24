"""The numbers of VMX and SVM by name, as the kernel's headers have them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from anyvisor.x86_64.hardware_reasons import (
    SvmExit,
    VmInstructionError,
    VmxExit,
    entry_failure,
    exit_reason,
    svm_exit,
    vmx_exit,
)

INCLUDE = next(iter(Path("/usr/include").glob("x86_64*/asm")), Path("/usr/include/asm"))
OTHER_NAMES = {"VMON": "VMXON", "VMOFF": "VMXOFF", "ERR": "INVALID"}
"""Where the headers do not have the manual's."""
NO_EXITS = {"SVM_EXIT_REASONS", "SVM_EXIT_SW", "SVM_EXIT_EXCP_BASE", "SVM_EXIT_LAST_EXCP"}


def numbers(header, prefix, tmp_path):
    """What a C compiler makes of every macro of a header whose name begins so."""
    if not shutil.which("gcc") or not (INCLUDE / header).exists():
        pytest.skip("needs gcc and the kernel's headers for x86_64: apt-get install gcc libc6-dev linux-libc-dev")
    found = re.findall(rf"^#define ({prefix}\w+)\s", (INCLUDE / header).read_text(), re.MULTILINE)
    names = [name for name in dict.fromkeys(found) if name not in NO_EXITS]
    lines = "\n".join(f'printf("%s %lld\\n", "{name}", (long long)({name}));' for name in names)
    source = tmp_path / "reasons.c"
    source.write_text(f"#include <stdio.h>\n#include <asm/{header}>\nint main(void) {{\n{lines}\n}}\n")
    subprocess.run(["gcc", "-I", INCLUDE.parent, "-o", tmp_path / "reasons", source], check=True)
    output = subprocess.run([tmp_path / "reasons"], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in output.splitlines())
    return {name.removeprefix(prefix): int(value) for name, value in rows}


def test_exit_reasons_of_vmx_are_those_of_the_kernels_header(tmp_path):
    theirs = numbers("vmx.h", "EXIT_REASON_", tmp_path)
    assert {name: vmx_exit(value) for name, value in theirs.items()} == {
        name: OTHER_NAMES.get(name, name) for name in theirs
    }
    assert len(theirs) > 60


def test_exit_codes_of_svm_are_those_of_the_kernels_header(tmp_path):
    theirs = numbers("svm.h", "SVM_EXIT_", tmp_path)
    assert {name: svm_exit(value) for name, value in theirs.items()} == {
        name: OTHER_NAMES.get(name, name) for name in theirs
    }
    assert len(theirs) > 90


def test_vm_instruction_errors_have_the_manuals_numbers():
    """SDM Vol. 3, 31.4: those that a hypervisor meets when it enters a guest; 14, 21 and 27 are nobody's."""
    numbered = {each.name: each.value for each in VmInstructionError}
    assert (numbered["VM_ENTRY_INVALID_CONTROLS"], numbered["VM_ENTRY_INVALID_HOST_STATE"]) == (7, 8)
    assert (numbered["VMRESUME_NOT_LAUNCHED"], numbered["VM_ENTRY_BLOCKED_BY_MOV_SS"]) == (5, 26)
    assert set(range(1, 29)) - set(numbered.values()) == {14, 21, 27}


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (0x80000021, "guest's state is invalid: VM-entry failure 33, INVALID_STATE"),
        (0x80000022, "MSR of the guest's could not be loaded: VM-entry failure 34, MSR_LOAD_FAIL"),
        (0x80000029, "machine check came meanwhile: VM-entry failure 41, MCE_DURING_VMENTRY"),
        (0xFFFFFFFF, "is invalid: VMEXIT_INVALID, -1"),
        ((1 << 64) - 1, "is invalid: VMEXIT_INVALID, -1"),
        ((1 << 64) - 2, "another processor is using the state of this vCPU: VMEXIT_BUSY, -2"),
    ],
)
@pytest.mark.parametrize("extension", [None, "", "vmx", "svm"])
def test_a_refused_entry_is_known_by_the_shape_of_its_reason(reason, words, extension):
    assert words in entry_failure(reason, extension)


def test_a_small_number_is_said_for_both_extensions_unless_the_processor_is_known():
    both = entry_failure(7)
    assert "VMX: VM-instruction error 7, VM_ENTRY_INVALID_CONTROLS" in both
    assert "SVM: exit code 0x7, VMEXIT_READ_CR7" in both
    assert entry_failure(7, "vmx").startswith("VM-instruction error 7")
    assert entry_failure(7, "svm").startswith("exit code 0x7")


@pytest.mark.parametrize("reason", [0x8000FFFF, 0xDEAD0000_00000021, 0x7FFFFFFF, 0xFFFFFFF0, -77])
def test_a_number_without_a_meaning_has_no_words(reason):
    assert entry_failure(reason) == ""
    assert exit_reason(reason) == ""


def test_an_exit_reason_is_told_by_name():
    assert exit_reason(VmxExit.EPT_VIOLATION, "vmx") == "EPT_VIOLATION"
    assert exit_reason(SvmExit.NPF) == "NPF"
    assert exit_reason(48) == "VMX: EPT_VIOLATION, SVM: WRITE_DR0"
    assert exit_reason(0x80000021, "vmx") == "INVALID_STATE"
