"""What is booted when nobody named a kernel: where it comes from, and, in QEMU, that it ends at a shell."""

import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anyvisor import stock
from anyvisor.config import DEFAULT_COMMAND_LINE
from anyvisor.debian import Packages
from anyvisor.errors import KernelImageError
from anyvisor.stock import STOCK_COMMAND_LINE, is_static_busybox, stock_initramfs, stock_kernel
from cli.terminals import Terminal
from debian_repository import make_repository
from guests import debian
from guests.availability import available

KERNEL = {"boot/vmlinuz-6.1.0-9-cloud-amd64": b"a kernel"}
APPLETS = b"\0".join([b"", *(name.encode() for name in stock.BUSYBOX_APPLETS), b""])
TIMEOUT = 60


@pytest.fixture
def told():
    return []


@pytest.fixture
def packages(tmp_path, told):
    with Packages(tmp_path / "cache", told.append) as packages:
        yield packages


@pytest.fixture
def host(tmp_path, monkeypatch):
    """An x86_64 machine with no kernel that we may read, and no busybox: the directory for its files."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "release", lambda: "6.99-test")
    monkeypatch.setattr(stock, "OWN_KERNELS", (f"{tmp_path}/boot/vmlinuz-{{release}}", f"{tmp_path}/lib/{{release}}"))
    monkeypatch.setattr(stock, "BUSYBOX_NAMES", ("busybox-of-this-test",))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    (tmp_path / "bin").mkdir()
    return tmp_path


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return make_repository(tmp_path / "repository", monkeypatch)


# -- the kernel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["boot/vmlinuz-6.99-test", "lib/6.99-test"])
def test_the_kernel_that_the_host_runs_is_taken_if_it_can_be_read(host, packages, told, path):
    kernel = host / path
    kernel.parent.mkdir()
    kernel.write_bytes(b"a kernel")
    assert stock_kernel(packages) == kernel
    assert told == [f"kernel {kernel}, this host's own"]
    assert not packages.directory.exists()


@pytest.mark.parametrize("name", stock.KERNEL_PACKAGES)
def test_else_it_comes_out_of_the_distribution_under_debians_names_and_ubuntus(host, packages, repository, told, name):
    repository.add(name, {}, depends="linux-image-6.1.0-9-cloud-amd64, linux-headers-6.1.0-9")
    repository.add("linux-image-6.1.0-9-cloud-amd64", KERNEL)
    repository.update()
    kernel = stock_kernel(packages)
    assert (kernel.name, kernel.read_bytes()) == ("vmlinuz-6.1.0-9-cloud-amd64", b"a kernel")
    assert told[0].startswith("fetching linux-image-6.1.0-9-cloud-amd64 ") and told[1] == f"kernel {kernel}"


def test_a_directory_of_kernels_that_cannot_be_looked_into_is_as_one_without(host, packages, repository, monkeypatch):
    (host / "boot").mkdir()
    monkeypatch.setattr(platform, "release", lambda: "x" * 300)  # as a /boot that is closed, but for root as well
    repository.add("linux-image-amd64", KERNEL)
    assert stock_kernel(packages).read_bytes() == b"a kernel"


def test_a_kernel_for_virtual_machines_is_preferred_and_taken_from_the_cache_the_next_time(
    host, packages, repository, told, monkeypatch
):
    for name in ("linux-image-amd64", "linux-image-cloud-amd64"):
        repository.add(name, {f"boot/vmlinuz-{name}": b"a kernel"})
    assert stock_kernel(packages).name == "vmlinuz-linux-image-cloud-amd64"
    monkeypatch.setenv("PATH", "")
    told.clear()
    kernel = stock_kernel(packages)
    assert (kernel.name, told) == ("vmlinuz-linux-image-cloud-amd64", [f"kernel {kernel}"])


def test_a_package_that_has_no_kernel_in_it_is_told_and_not_kept(host, packages, repository):
    repository.add("linux-image-amd64", {"usr/share/doc/readme": b""})
    with pytest.raises(KernelImageError, match=r"linux-image-amd64_1\.0_amd64\.deb has no boot/vmlinuz-\*"):
        stock_kernel(packages)
    packages.close()
    assert list(packages.directory.iterdir()) == []


def test_where_there_is_none_it_says_where_it_looked_and_what_to_pass(host, packages, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KernelImageError) as caught:
        stock_kernel(packages)
    assert re.fullmatch(
        r"no KERNEL is given, and there is none to be had: \S+/boot/vmlinuz-6\.99-test cannot be read, and "
        r"linux-image-cloud-amd64 cannot be fetched: this is no Debian system, it has no apt-get; "
        r"name a bzImage or a vmlinux",
        str(caught.value),
    )


def test_a_host_of_another_architecture_gives_neither_kernel_nor_busybox(host, packages, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(KernelImageError, match="this host's own kernels are for aarch64; name a bzImage"):
        stock_kernel(packages)
    with pytest.raises(KernelImageError, match="this host's own programs are for aarch64; give an --initrd"):
        stock_initramfs(packages)


# -- busybox -----------------------------------------------------------------------------------------------------------


def need(tool):
    """The path of a judge."""
    return shutil.which(tool) or pytest.skip(f"no {tool} here: install it to run this")


def compiled(path, *options):
    """A program of a real compiler's that has the applets' names in it."""
    names = ",".join(map(str, APPLETS))
    source = f"const char names[] = {{{names}}}; int main(int n, char **v) {{ return names[n]; }}"
    subprocess.run([need("gcc"), "-x", "c", "-", "-o", path, *options], input=source.encode(), check=True)
    return path


def test_only_a_static_program_for_this_processor_that_has_the_applets_will_do(tmp_path):
    static = compiled(tmp_path / "static", "-static")
    assert is_static_busybox(static)
    assert is_static_busybox(compiled(tmp_path / "static-pie", "-static-pie"))
    assert not is_static_busybox(compiled(tmp_path / "dynamic"))
    data = static.read_bytes()
    for name, wrong in {
        "other machine": data[:18] + b"\xb7\0" + data[20:],
        "other class": data[:4] + b"\1" + data[5:],
        "cut off": data[:60],
        "no applet": data.replace(b"\0cttyhack\0", b"\0cttyhick\0"),
        "script": b"#!/bin/sh\n",
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(wrong)
        assert not is_static_busybox(tmp_path / name), name
    assert not is_static_busybox(tmp_path / "absent") and not is_static_busybox(tmp_path)


def test_the_hosts_own_busybox_is_taken_and_else_the_distributions(host, packages, repository, told):
    repository.add("busybox-static", {"bin/busybox": b"the distribution's"})
    with_theirs = stock_initramfs(packages).read_bytes()
    assert b"the distribution's" in with_theirs and "fetching busybox-static" in told[-1]
    own = compiled(host / "bin" / "busybox-of-this-test", "-static")
    assert own.read_bytes() in stock_initramfs(packages).read_bytes()
    own.write_bytes(b"#!/bin/sh\n")
    assert stock_initramfs(packages).read_bytes() == with_theirs


def test_without_any_busybox_it_says_what_to_pass(host, packages, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KernelImageError, match=r"no static busybox .* it has no apt-get; give an --initrd$"):
        stock_initramfs(packages)


def test_the_initramfs_is_a_cpio_archive_and_made_once(host, packages):
    compiled(host / "bin" / "busybox-of-this-test", "-static")
    made = stock_initramfs(packages)
    written = made.stat().st_mtime_ns
    assert stock_initramfs(packages) == made and made.stat().st_mtime_ns == written
    listed = subprocess.check_output([need("cpio"), "-t", "--quiet"], input=made.read_bytes(), text=False).split()
    assert {
        b"init",
        b"etc/inittab",
        b"etc/session",
        b"bin/busybox",
        b"bin/sh",
        b"dev/console",
        b"proc",
        b"root",
        b"tmp",
    } <= set(listed)


def test_the_stock_command_line_is_the_default_one_and_less_talk():
    assert STOCK_COMMAND_LINE.startswith(f"{DEFAULT_COMMAND_LINE} quiet")


# -- all of it, on a machine of somebody else's ------------------------------------------------------------------------


@pytest.fixture
def qemu(packages):
    """The stock kernel and initramfs on a terminal of QEMU, which emulates the processor; at the first prompt."""
    program = need("qemu-system-x86_64")
    machine = ["-accel", "tcg", "-machine", "pc,acpi=off", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"]
    console = ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    kernel, initrd = available(debian.cloud_kernel).vmlinuz, stock_initramfs(packages)
    terminal = Terminal()
    terminal.start([program, *machine, *console, "-kernel", kernel, "-initrd", initrd, "-append", STOCK_COMMAND_LINE])
    try:
        terminal.wait_for(b"guest# ", TIMEOUT)
        yield terminal
    finally:
        terminal.close()


def say(terminal, command, answer):
    before = len(terminal.shown)
    terminal.type(command.encode() + b"\n")
    terminal.wait_until(lambda: re.search(answer, terminal.shown[before:]), f"no {answer!r} after {command}", TIMEOUT)


@pytest.mark.guest
@pytest.mark.timeout(150)
def test_it_ends_at_a_shell_with_job_control_that_ends_the_machine(qemu):
    assert re.search(rb"This is Linux 6\S+, booted by anyvisor\. `exit` or `poweroff` ends it\.", qemu.shown)
    assert b"can't access tty" not in qemu.shown
    say(qemu, "tty; sleep 100 &", rb"/dev/ttyS0\r+\n")
    say(qemu, "jobs", rb"\[1\]\+  Running +sleep 100\r+\n")
    say(qemu, "cat /proc/mounts | wc -l; ls /dev/pts /sys/class/tty/console", rb"ptmx\r+\n")
    qemu.type(b"sleep 1000\n")
    time.sleep(1)
    qemu.type(b"\x03")  # Ctrl-C, to the guest: the signal goes to the foreground job and not to the shell
    say(qemu, "echo status $?", rb"status 130\r+\n")
    qemu.type(b"exit\n")
    assert qemu.wait(TIMEOUT) == 0
    assert b"Restarting system" in qemu.shown and b"panic" not in qemu.shown


@pytest.mark.guest
@pytest.mark.timeout(150)
@pytest.mark.parametrize("command", ["poweroff", "halt", "reboot", "reboot -f"])
def test_every_way_to_end_it_ends_it(qemu, command):
    qemu.type(command.encode() + b"\n")
    assert qemu.wait(TIMEOUT) == 0
    assert b"Restarting system" in qemu.shown


def test_importing_it_costs_no_archive_and_no_apt():
    code = "import sys, anyvisor.cli.boot; print([name for name in sys.modules if name.endswith(('debian', 'stock'))])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_the_names_in_this_file_are_those_of_a_real_busybox():
    path = available(debian.busybox)
    listed = subprocess.check_output([path, "--list"], text=True).split()
    assert set(stock.BUSYBOX_APPLETS) <= set(listed)
    assert is_static_busybox(Path(path))
