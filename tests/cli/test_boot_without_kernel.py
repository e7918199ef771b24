"""`anyvisor boot` without a KERNEL, and what it says about the backend it took."""

import json
import os
import subprocess

import attrs
import click
import pytest
from guests_in_bytes import HELLO, elf

from anyvisor.config import DEFAULT_COMMAND_LINE
from anyvisor.stock import STOCK_COMMAND_LINE
from debian_repository import make_repository

BOOT = ("boot", "--backend", "scripted")
HERE_IS_NO_KERNEL = """
import platform
platform.release = lambda: "0-of-this-test"
platform.machine = lambda: "x86_64"
"""
TELLS = """
import json, sys
from anyvisor import hookimpl

@hookimpl
def anyvisor_plan_ready(plan):
    initrd = [blob.content.path.read_bytes() for blob in plan.blobs if blob.name == "initrd"]
    line = plan.blob("command line").content.rstrip(bytes(1)).decode()
    print(json.dumps({"line": line, "shell": any(b"etc/session" in each for each in initrd)}), file=sys.stderr)
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return make_repository(tmp_path / "repository", monkeypatch)


@pytest.fixture
def fresh(tmp_path, environment, plugin_path):
    """A machine whose own kernel cannot be read, with an empty cache: the cache. Each plan is told on stderr."""
    (tmp_path / "sitecustomize.py").write_text(HERE_IS_NO_KERNEL)
    path = [str(tmp_path), str(plugin_path("teller", "teller", TELLS)), environment["PYTHONPATH"]]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    environment["ANYVISOR_CACHE"] = str(tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def distribution(fresh, repository, environment):
    """A distribution with a kernel that greets and resets, and something called busybox."""
    repository.add("linux-image-cloud-amd64", {}, depends="linux-image-6.1.0-9-cloud-amd64")
    repository.add("linux-image-6.1.0-9-cloud-amd64", {"boot/vmlinuz-6.1.0-9-cloud-amd64": elf(HELLO)})
    repository.add("busybox-static", {"bin/busybox": b"a busybox"})
    environment |= repository.environment
    return repository


def plans(done):
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]


def test_a_kernel_and_a_shell_are_fetched_and_the_next_time_are_there(distribution, fresh, run):
    done = run(*BOOT)
    assert (done.returncode, done.stdout) == (0, "hello from the guest\r\n"), done.stderr
    kernel = fresh / "linux-image-6.1.0-9-cloud-amd64_1.0_amd64" / "boot" / "vmlinuz-6.1.0-9-cloud-amd64"
    told = [line for line in done.stderr.splitlines() if line.startswith("anyvisor: ")]
    assert told[0] == "anyvisor: apt knows no linux-image-cloud-amd64 or another such package; fetching newer lists of packages, which the system does not see"  # fmt: skip  # noqa: E501
    assert told[1] == f"anyvisor: fetching linux-image-6.1.0-9-cloud-amd64 (0 MB) from this machine into {fresh}"
    assert f"anyvisor: kernel {kernel}" in told and told[-1].startswith("anyvisor: machine ended: reset")
    assert "Get:1 file:" in done.stderr
    assert plans(done) == [{"line": STOCK_COMMAND_LINE, "shell": True}]
    again = run(*BOOT, env={"APT_CONFIG": "/dev/null"})
    assert (again.returncode, again.stdout) == (0, "hello from the guest\r\n")
    told = [line for line in again.stderr.splitlines() if line.startswith("anyvisor: ")]
    assert told[0] == f"anyvisor: kernel {kernel}" and len(told) == 2


def test_options_and_file_count_as_ever(distribution, fresh, run, tmp_path):
    (tmp_path / "initrd").write_bytes(b"mine".ljust(64, b"\0"))
    (tmp_path / "vm.toml").write_text('memory = "64M"\ncommand_line = "of the file"\n')
    wanted = {
        ("--append", "more"): (f"{STOCK_COMMAND_LINE} more", True),
        ("--cmdline", "all"): ("all", True),
        ("--cmdline", "all", "--append", "more"): ("all more", True),
        ("--initrd", tmp_path / "initrd"): (STOCK_COMMAND_LINE, False),
        ("--config", tmp_path / "vm.toml"): ("of the file", True),
    }
    for arguments, (line, shell) in wanted.items():
        done = run(*BOOT, *arguments)
        assert plans(done) == [{"line": line, "shell": shell}], done.stderr


def test_with_a_kernel_nothing_is_fetched_and_no_shell_is_added(fresh, run, kernel):
    done = run(*BOOT, kernel)
    assert plans(done) == [{"line": DEFAULT_COMMAND_LINE, "shell": False}]
    assert not fresh.exists()


def test_where_no_kernel_is_to_be_had_it_is_a_mistake_of_one_line(fresh, run):
    done = run(*BOOT, env={"PATH": ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("anyvisor: error: no KERNEL is given") and done.stderr.count("\n") == 1
    assert done.stderr.endswith("name a bzImage or a vmlinux\n")


def test_what_is_wrong_with_the_machine_is_told_before_anything_is_fetched(distribution, fresh, run):
    assert run(*BOOT, "--memory", "lots").returncode == 2
    assert run("boot", "--backend", "none-such").returncode == 3
    assert not fresh.exists()


def test_a_signal_while_something_is_fetched_leaves_nothing_half_made(fresh, environment, start, tmp_path):
    """An apt-get that never ends stands for a slow network."""
    (tmp_path / "bin").mkdir()
    slow = tmp_path / "bin" / "apt-get"
    slow.write_text("#!/bin/sh\necho waiting >&2\nexec sleep 60\n")
    slow.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{environment['PATH']}"
    process = start(*BOOT, env={"PATH": path}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert any(fresh.glob(".new-*")) or wait_until(lambda: any(fresh.glob(".new-*")))
    process.terminate()
    assert process.wait(30) == 143
    assert list(fresh.iterdir()) == []


def wait_until(condition, seconds=30):
    import time

    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


BACKENDS = """
import attrs
from anyvisor import Capability, hookimpl
from anyvisor.errors import HypervisorUnavailable
from scripted_backend import ScriptedHypervisor, FACTS

@hookimpl
def anyvisor_hypervisors():
    return {"counting": "counting:open_counting"}

def open_counting():
    capabilities = frozenset({Capability.FULL_SYSTEM, Capability.NATIVE, Capability.DETERMINISTIC})
    return ScriptedHypervisor(facts=attrs.evolve(FACTS, backend="counting", capabilities=capabilities))
"""


@pytest.fixture
def counting(environment, plugin_path):
    """A backend that is as good as they get, and can count time."""
    environment["PYTHONPATH"] = f"{plugin_path('counting', 'counting', BACKENDS)}:{environment['PYTHONPATH']}"


def test_auto_says_in_a_line_which_backend_it_took_and_a_named_one_is_no_news(counting, run, kernel):
    done = run("boot", kernel, "--deterministic")
    assert (done.returncode, done.stdout) == (0, "hello from the guest\r\n"), done.stderr
    assert done.stderr.splitlines()[0] == "anyvisor: backend counting, on this host's own processor"
    assert run("boot", kernel, "--backend", "counting").stderr.count("\n") == 1


def test_a_named_backend_that_cannot_count_time_refuses_a_deterministic_machine(run, kernel):
    done = run(*BOOT, kernel, "--deterministic")
    assert done.returncode == 3
    assert "anyvisor: error: deterministic: the scripted backend knows only the host's time" in done.stderr


@pytest.mark.parametrize(("flags", "unpack"), [([], None), (["--unpack"], True), (["--no-unpack"], False)])
def test_unpacking_is_asked_for_refused_or_left_open(flags, unpack, kernel):
    from anyvisor.cli import cli
    from anyvisor.cli.options import MachineOptions
    from anyvisor.cli.plan import plan

    parent = click.Context(cli, **cli.context_settings)  # click keeps the help option of the first context
    params = plan.make_context("plan", [str(kernel), *flags], parent).params
    options = {field.name: params[field.name] for field in attrs.fields(MachineOptions)}
    assert MachineOptions(**options).to_config().unpack is unpack
