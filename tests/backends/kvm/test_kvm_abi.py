"""Every number of KVM's binary interface that the backend has, against what the kernel's headers give a C
compiler."""

import ctypes
import inspect
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from anyvisor.errors import HypervisorError
from anyvisor_kvm import abi as common
from anyvisor_kvm import exit_abi, fds, run_page
from anyvisor_kvm.abi import Cap, ExitReason, Struct, assign, counted
from anyvisor_kvm.ioctl import Ioctl
from anyvisor_kvm.x86_64 import abi as x86
from anyvisor_kvm.x86_64 import fds as x86_fds

HEADER = Path("/usr/include/linux/kvm.h")
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("gcc") or not HEADER.exists(),
    reason="needs gcc and the kernel's headers on x86_64: apt-get install gcc libc6-dev linux-libc-dev",
)

NO_STRUCTURE_IN_C = {"Struct", "kvm_identity_map"}
INSIDE_ANOTHER = {
    f"kvm_run_{name}": ("kvm_run", name)
    for name in (
        "io",
        "mmio",
        "fail_entry",
        "internal",
        "system_event",
        "memory_fault",
        "hw",
        "ex",
        "hypercall",
        "tpr_access",
        "emulation_failure",
        "eoi",
        "arm_nisv",
        "msr",
        "riscv_sbi",
        "riscv_csr",
        "notify",
    )
} | {
    f"kvm_event_{name}": ("kvm_vcpu_events", name) for name in ("exception", "interrupt", "nmi", "smi", "triple_fault")
}
OF_A_TYPE = {
    f"kvm_{owner}_{kind}": (f"kvm_{owner}_exit", f"u.{kind}")
    for owner, kind in (("hyperv", "synic"), ("hyperv", "hcall"), ("hyperv", "syndbg"), ("xen", "hcall"))
}
"""The fields of a union's member, with those before the union in front."""
BEFORE_THE_UNION = {"type", "pad1"}
NAMELESS_IN_C = {("kvm_xen_hcall", "pad")}
OTHER_NAMES = {("kvm_run", "exits"): "io"}
NEWER_THAN_SOME_HEADERS = {"KVM_EXIT_MEMORY_FAULT", "KVM_MEMORY_EXIT_FLAG_PRIVATE"}


def structures():
    found = {**vars(common), **vars(x86), **vars(exit_abi)}
    return [
        each
        for name, each in found.items()
        if inspect.isclass(each) and issubclass(each, Struct) and name not in NO_STRUCTURE_IN_C
    ]


def expressions():
    """C expressions, and what they are here."""
    for structure in structures():
        yield from layout_of_type(structure) if structure.__name__ in OF_A_TYPE else layout(structure)
    for enum, prefix in ((Cap, "KVM_CAP_"), (ExitReason, "KVM_EXIT_")):
        for each in enum:
            yield f"{prefix}{each.name}", int(each)
    for fd in (fds.KvmFd, fds.VmFd, fds.VcpuFd, x86_fds.X86KvmFd, x86_fds.X86VmFd, x86_fds.X86VcpuFd):
        for each in vars(fd).values():
            if isinstance(each, Ioctl):
                yield each.name, each.request
    for module in (common, x86, exit_abi):
        for name, value in vars(module).items():
            if name.startswith("KVM_") and isinstance(value, int):
                yield name, value


def layout(structure):
    parent, member = INSIDE_ANOTHER.get(structure.__name__, (structure.__name__, ""))
    start = f"offsetof(struct {parent}, {member})" if member else "0"
    if not member:
        yield f"sizeof(struct {parent})", ctypes.sizeof(structure)
    for name, _ in [field[:2] for field in structure._fields_]:
        path = ".".join(filter(None, (member, OTHER_NAMES.get((parent, name), name))))
        yield f"offsetof(struct {parent}, {path}) - {start}", getattr(structure, name).offset
        if (parent, name) not in OTHER_NAMES:
            yield f"sizeof(((struct {parent} *)0)->{path})", getattr(structure, name).size


def layout_of_type(structure):
    parent, member = OF_A_TYPE[structure.__name__]
    for name, *_ in structure._fields_:
        if (structure.__name__, name) not in NAMELESS_IN_C:
            path = name if name in BEFORE_THE_UNION else f"{member}.{name}"
            yield f"offsetof(struct {parent}, {path})", getattr(structure, name).offset
            yield f"sizeof(((struct {parent} *)0)->{path})", getattr(structure, name).size


def according_to_c(wanted, tmp_path):
    lines = []
    for expression in wanted:
        line = f'printf("%lld\\n", (long long)({expression}));'
        newer = expression in NEWER_THAN_SOME_HEADERS or "memory_fault" in expression
        lines.append(f'#ifdef KVM_EXIT_MEMORY_FAULT\n{line}\n#else\nputs("none");\n#endif' if newer else line)
    source = tmp_path / "abi.c"
    body = "\n".join(lines)
    source.write_text(
        f"#include <linux/kvm.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{body}\n}}\n"
    )
    subprocess.run(["gcc", "-o", tmp_path / "abi", source], check=True)
    output = subprocess.run([tmp_path / "abi"], check=True, capture_output=True, text=True).stdout
    return dict(zip(wanted, output.split(), strict=True))


def test_every_size_offset_request_and_number_is_that_of_the_kernels_headers(tmp_path):
    ours = dict(expressions())
    theirs = according_to_c(list(ours), tmp_path)
    compared = {name: int(value) for name, value in theirs.items() if value != "none"}
    assert compared == {name: ours[name] for name in compared}
    assert len(compared) > 400


def test_structures_of_exits_that_older_headers_lack_have_the_documented_layout():
    """Documentation/virt/kvm/api.rst, 5: flags, gpa and size, of 64 bits each."""
    offsets = {name: getattr(common.kvm_run_memory_fault, name).offset for name in ("flags", "gpa", "size")}
    assert (ExitReason.MEMORY_FAULT, offsets) == (39, {"flags": 0, "gpa": 8, "size": 16})


def test_the_words_of_the_run_loop_lie_where_the_structures_say():
    sizes = [run_page.IO.size, run_page.MMIO.size]
    assert sizes == [ctypes.sizeof(common.kvm_run_io), common.kvm_run_mmio.is_write.offset + 1]
    fields = run_page.IO.unpack(bytes(common.kvm_run_io(direction=1, size=2, port=0x3F8, count=7, data_offset=4096)))
    assert fields == (1, 2, 0x3F8, 7, 4096)
    mmio = common.kvm_run_mmio(phys_addr=0xFEE00000, len=4, is_write=1)
    mmio.data[0] = 0x55
    assert run_page.MMIO.unpack_from(bytes(mmio)) == (0xFEE00000, 0x55, 4, 1)


def test_a_number_that_does_not_fit_is_refused():
    with pytest.raises(HypervisorError, match=r"kvm_irq_level \(irq=0x100000000 does not fit in its field\): EINVAL"):
        common.kvm_irq_level(irq=1 << 32)
    with pytest.raises(HypervisorError, match="-0x1 does not fit"):
        common.kvm_irq_level().level = -1


def test_an_array_takes_exactly_the_values_that_fit():
    array = (ctypes.c_uint8 * 3)()
    assign(array, [1, 2, 255], "KVM_TEST")
    assert list(array) == [1, 2, 255]
    for wrong in ([1, 2], [1, 2, 3, 4], [1, 2, 256], [1, 2, -1]):
        with pytest.raises(HypervisorError, match="KVM_TEST"):
            assign(array, wrong, "KVM_TEST")


def test_a_structure_with_an_array_at_its_end_is_as_long_as_both():
    made = counted(common.kvm_signal_mask, ctypes.c_uint8, 8)
    assert isinstance(made, common.kvm_signal_mask)
    assert (ctypes.sizeof(made), len(made.items)) == (12, 8)
