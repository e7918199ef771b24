"""What users get wrong: one clear line on stderr, nothing on stdout, the exit code that says whose fault it
is.
"""

import os
import shutil
import subprocess
import sys

import pytest
from guests_in_bytes import AARCH64, elf

from symbols.kallsyms_images import AGES, image
from x86_64.kernel_images import PACKERS, Patch, bzimage

LINUX_COMMAND_LINE_BYTES = 2047
KERNEL_VERSION = 0x20E


def kernel_in(path, content):
    path.write_bytes(content)
    return path


FILES = {
    "missing": (None, "No such file"),
    "empty": (b"", "is empty"),
    "truncated": (elf()[:100], "beyond the end of the file"),
    "cut in its code": (elf()[:-1], "beyond the end of the file"),
    "random": (bytes(range(256)) * 16, "neither a bzImage nor an ELF vmlinux"),
    "of aarch64": (elf(machine=AARCH64), "aarch64"),
    "over the MMIO gap": (elf(address=0xC0000000), "0xc0000000"),
}


def assert_a_clear_line(done, code, *words):
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("anyvisor: error: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("command", [("boot", "--backend", "scripted"), ("plan",)], ids=lambda command: command[0])
@pytest.mark.parametrize("kind", FILES)
def test_a_bad_kernel(run, tmp_path, command, kind):
    content, cause = FILES[kind]
    path = tmp_path / "kernel"
    if content is not None:
        path.write_bytes(content)
    assert_a_clear_line(run(*command, path), 2, str(path), cause)


def test_a_directory_as_kernel(run, tmp_path):
    assert_a_clear_line(run("plan", tmp_path), 2, "is a directory")


def test_a_command_line_longer_than_the_kernel_takes(run, kernel):
    assert run("plan", kernel, "--cmdline", "x" * LINUX_COMMAND_LINE_BYTES).returncode == 0
    done = run("plan", kernel, "--cmdline", "x" * (LINUX_COMMAND_LINE_BYTES + 1))
    assert_a_clear_line(done, 2, "command_line", "2048", "2047")


def test_an_initrd_bigger_than_ram(run, kernel, tmp_path):
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(80 << 20)
    assert run("plan", kernel, "--memory", "128M", "--initrd", initrd).returncode == 0
    assert_a_clear_line(run("plan", kernel, "--memory", "64M", "--initrd", initrd), 2, str(initrd), "80M")


@pytest.mark.parametrize(
    ("memory", "cause"),
    [
        ("0", "too little"),
        ("4096", "too little"),
        ("4K", "too little"),
        (str((64 << 20) + 1), "4096-byte pages"),
        ("banana", "not a size"),
        ("-1", "not a size"),
        ("65T", "more than"),
    ],
)
def test_bad_memory(run, kernel, memory, cause):
    assert_a_clear_line(run("boot", kernel, "--backend", "scripted", "--memory", memory), 2, "memory", cause)


def test_more_memory_than_the_host_has(run, kernel):
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = f"{(host >> 30) + 2}G"
    done = run("boot", kernel, "--backend", "scripted", "--memory", memory)
    assert_a_clear_line(done, 3, memory, "overcommit")
    assert run("boot", kernel, "--backend", "scripted", "--memory", memory, "--overcommit").returncode == 0


@pytest.mark.parametrize("cpus", ["0", "99999", "-1"])
def test_a_number_of_vcpus_that_cannot_be(run, kernel, cpus):
    assert_a_clear_line(run("boot", kernel, "--backend", "scripted", "--cpus", cpus), 2, "vcpus", cpus)


@pytest.mark.parametrize("cpus", ["9", "255", "256"])
def test_more_vcpus_than_the_backend_runs(run, kernel, cpus):
    assert_a_clear_line(run("boot", kernel, "--backend", "scripted", "--cpus", cpus), 3, cpus, "scripted", "(8)")


def test_a_machine_that_no_backend_can_run_is_no_mistake_whoever_chooses(run, kernel):
    """A deterministic machine of two vCPUs: KVM is not deterministic, and the emulated processor is one."""
    impossible = ("boot", kernel, "--deterministic", "--cpus", "2")
    for backend in ("auto", "scripted", "unicorn"):
        assert_a_clear_line(run(*impossible, "--backend", backend), 3)


def test_a_topology_that_does_not_agree_with_the_number_of_vcpus(run, kernel):
    assert_a_clear_line(run("plan", kernel, "--cpus", "3", "--sockets", "2"), 2, "topology")


OPTIONS = {
    ("--timeout", "0"): "not a number of seconds above 0",
    ("--timeout", "-1"): "not a number of seconds above 0",
    ("--timeout", "soon"): "soon is not a number of seconds",
    ("--trace-exits", ""): "the name is empty",
    ("--record", "-"): "standard output is the guest's console",
    ("--on-death", "dump", ""): "the name is empty",
    ("--on-death", "dump", "/proc/dead"): "/proc/dead: a dump cannot be made there: No such file or directory",
    ("--on-death", "dump", "x" * 300): "File name too long",
}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options)[:24])
def test_an_option_that_makes_no_sense(run, kernel, tmp_path, options):
    assert_a_clear_line(run("boot", kernel, "--backend", "scripted", *options, cwd=tmp_path), 2, OPTIONS[options])


def test_symbols_of_another_kernel_are_told_of(run, tmp_path):
    """A kernel says which it is in its header (boot.rst, kernel_version)."""
    names = ("6.1.0-9-amd64", "6.2.0-1-cloud")
    for name in names:
        code = name.encode().ljust(32, b"\0") + b"\xf4" * 0x1000
        packed = PACKERS["gzip"](image(AGES[-1]).content)
        (tmp_path / name).write_bytes(bzimage(code, payload=packed, patches=(Patch(KERNEL_VERSION, "H", 0x200),)))
    boot = ("boot", tmp_path / names[0], "--backend", "scripted", "--symbols")
    assert "warning" not in run(*boot, tmp_path / names[0]).stderr
    warned = run(*boot, tmp_path / names[1])
    words = f"{names[1]} is Linux {names[1]}, and the kernel is {names[0]}: names from there will be wrong"
    assert (warned.returncode, warned.stderr.count("warning")) == (0, 1)
    assert words in warned.stderr.splitlines()[0]


@pytest.mark.parametrize("command", ["boot", "plan"])
def test_an_unknown_backend(run, kernel, command):
    assert_a_clear_line(run(command, kernel, "--backend", "nope"), 3, "'nope'", "kvm")


CONFIGS = {
    "missing": (None, "No such file"),
    "not TOML": ("kernel = ", "is not TOML"),
    "unknown key": ('kernel = "vmlinux"\ncolour = "red"\n', "colour"),
    "wrong type": ('kernel = "vmlinux"\nvcpus = "two"\n', "vcpus"),
    "wrong value": ('kernel = "vmlinux"\nmemory = "3 cubits"\n', "cubits"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_bad_configuration_file(run, tmp_path, kind):
    content, cause = CONFIGS[kind]
    path = tmp_path / "vm.toml"
    if content is not None:
        path.write_text(content)
    assert_a_clear_line(run("plan", "--config", path), 2, str(path), cause)


@pytest.mark.kvm
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="run as root, with setpriv of util-linux")
def test_no_permission_on_dev_kvm(kvm, kernel):
    """As a user who may read this Python and this repository, and may not use /dev/kvm."""
    unprivileged = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ]
    command = [*unprivileged, sys.executable, "-m", "anyvisor", "boot", str(kernel)]
    done = subprocess.run([*command, "--backend", "kvm"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "/dev/kvm: Permission denied; join the group" in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["hello", "from", "the", "guest"])
    assert done.stderr.splitlines()[0] == (
        "anyvisor: backend unicorn, an emulated processor; kvm: KVM cannot be opened: /dev/kvm: Permission denied"
    )
