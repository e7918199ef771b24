"""The command line under test: in this process with `invoke`, as one of its own with `run`, `run_cold` and `start`."""

import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner
from guests_in_bytes import HELLO, elf

HERE = Path(__file__).parent
TIMEOUT = 60


@pytest.fixture
def invoke():
    """Call the command line in this process: `invoke("plan", path).stdout`."""
    from anyvisor.cli import cli

    return lambda *arguments: CliRunner().invoke(cli, [str(each) for each in arguments], prog_name="anyvisor")


@pytest.fixture
def plugin_path(tmp_path):
    """Install a throwaway distribution: `plugin_path("name", "module", source)` -> its directory."""

    def make(name, module, source=None, directory=tmp_path / "site"):
        info = directory / f"{name.replace('-', '_')}-1.2.3.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
        (info / "entry_points.txt").write_text(f"[anyvisor]\n{name} = {module}\n")
        if source is not None:
            (directory / f"{module}.py").write_text(source)
        return directory

    return make


@pytest.fixture
def environment(plugin_path, tmp_path):
    """The environment of a process in which the scripted backend is installed."""
    directory = plugin_path("scripted", "scripted_backend", directory=tmp_path / "scripted")
    path = [str(directory), str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "SCRIPT": "hello", "COLUMNS": "100"}


@pytest.fixture
def start(environment):
    """Start the command line: `start("boot", kernel, script="echo")` -> Popen, killed at the end."""
    processes = []

    def start(*arguments, script="hello", **options):
        command = [sys.executable, "-m", "anyvisor", *(str(each) for each in arguments)]
        process = subprocess.Popen(command, env={**environment, "SCRIPT": script, **options.pop("env", {})}, **options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait(TIMEOUT)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


@pytest.fixture
def run(environment, warm_command):
    """Run the command line to its end: an object with `returncode`, `stdout` and `stderr` as text."""

    def run(*arguments, script="hello", env=MappingProxyType({}), **options):
        whole = {**environment, "SCRIPT": script, **env}
        done = warm_command.run(arguments, env=whole, timeout=TIMEOUT, **options)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def run_cold(start):
    """The same in a process that has imported nothing yet: for what depends on how it starts."""

    def run(*arguments, stdin=b"", **options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = start(*arguments, **{**pipes, **options})
        out, err = process.communicate(stdin, TIMEOUT)
        return subprocess.CompletedProcess(process.args, process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
def kernel(tmp_path):
    """A kernel that greets on the serial port and resets."""
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(HELLO))
    return path


@pytest.fixture
def kvm():
    """A usable /dev/kvm, or a skip that says why there is none (in CI a failure)."""
    from anyvisor import open_hypervisor
    from anyvisor.errors import HypervisorUnavailable

    try:
        open_hypervisor("kvm").close()
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    return "kvm"
