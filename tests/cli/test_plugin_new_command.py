"""`anyvisor plugin new`: from nothing to an installed plugin whose tests pass, by the commands of its README."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv

import pytest

from anyvisor.plugins.project import KINDS

TIMEOUT = 120


def test_it_says_what_it_wrote_and_how_to_go_on(run, tmp_path):
    done = run("plugin", "new", "acme", "--kind", "device", cwd=tmp_path)
    assert done.returncode == 0
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("anyvisor-acme/**/*") if path.is_file())
    assert sorted(done.stdout.splitlines()) == written
    assert "anyvisor-acme/src/anyvisor_acme/device.py" in written
    assert "Now: cd anyvisor-acme && pip install -e '.[test]' && pytest" in done.stderr


def test_without_a_command_it_shows_its_help_in_lines(run):
    done = run("plugin")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: anyvisor plugin ") and re.search(r"^  new +Write", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("acme",), "Missing option '--kind'"),
        (("--kind", "step"), "Missing argument 'NAME'"),
        (("acme", "--kind", "thing"), "'thing' is not one of 'backend', 'step', 'device'"),
        (("a b", "--kind", "step"), "'a b' is no name for a plugin"),
        (("kvm", "--kind", "backend"), "'kvm' is the name of a plugin of anyvisor's own already"),
        (("acme", "--kind", "step", "--directory", "full"), "full is not empty"),
        (("acme", "--kind", "step", "--directory", "full/file"), "is there already, and no directory"),
        (("acme", "--kind", "step", "--directory", "full/file/below"), "Not a directory"),
        (("acme", "--kind", "step", "--directory", "/proc/nothing/can/be/made/here"), "/proc/nothing"),
        (("acme", "--kind", "step", "--directory", "x" * 300), "File name too long"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(run, tmp_path, options, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    done = run("plugin", "new", *options, cwd=tmp_path)
    assert done.returncode in (1, 2) and done.stdout == ""
    assert done.stderr.startswith("anyvisor: error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_the_kinds_on_the_command_line_are_those_there_are(invoke):
    assert f"[{'|'.join(KINDS)}]" in invoke("plugin", "new", "--help").stdout


def test_without_a_subcommand_there_is_help(run):
    done = run("plugin")
    assert done.returncode == 2 and "new" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A fresh virtual environment that sees this one's packages, and in it a new plugin of each kind."""
    desk = tmp_path_factory.mktemp("desk")
    venv.create(desk / "venv", symlinks=True)
    (inside,) = desk.glob("venv/lib/python*/site-packages")
    paths = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    (inside / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in paths))
    projects = [desk / kind for kind in KINDS]
    for kind in KINDS:
        anyvisor(desk, "plugin", "new", f"my-{kind}", "--kind", kind, "--directory", str(desk / kind))
    pip = [sys.executable, "-m", "pip", "--python", str(desk / "venv"), "install", "--quiet", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    python(desk, pip + options + [str(project) for project in projects])
    yield desk
    shutil.rmtree(desk / "venv")


def python(desk, command, **options):
    """Run a command as its user would, nothing of these tests on the path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        **{"cwd": desk, **options},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def anyvisor(desk, *arguments):
    return python(desk, [str(desk / "venv" / "bin" / "python"), "-m", "anyvisor", *arguments])


@pytest.mark.timeout(TIMEOUT)
def test_each_is_installed_and_on_the_list_without_a_problem(desk):
    found = json.loads(anyvisor(desk, "plugins", "--json"))
    assert found["problems"] == []
    mine = {each["name"]: each for each in found["plugins"] if each["distribution"].startswith("anyvisor-my")}
    assert {name: each["hooks"] for name, each in mine.items()} == {
        "my-backend": ["anyvisor_hypervisors"],
        "my-step": ["anyvisor_cpuid"],
        "my-device": ["anyvisor_device_factories", "anyvisor_devices"],
    }
    assert all("site-packages" not in each["module"] and each["version"] == "0.1.0" for each in mine.values())


@pytest.mark.timeout(TIMEOUT)
def test_each_takes_its_part(desk):
    backends = {each["name"]: each for each in json.loads(anyvisor(desk, "backends", "--json"))}
    assert backends["my-backend"]["available"] and backends["my-backend"]["plugin"] == "my-backend"
    assert "linux is asked first, adjusted by my-step" in anyvisor(desk, "hooks", "cpuid")
    assert "my-device, pc" in anyvisor(desk, "hooks", "devices")


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass_on_what_is_installed(desk, kind):
    command = [str(desk / "venv" / "bin" / "python"), "-m", "pytest", "-p", "no:cacheprovider", "-q", "--durations=0"]
    out = python(desk, command, cwd=desk / kind)
    summary = out.splitlines()[-1]
    passed = int(re.search(r"(\d+) passed", summary)[1])
    assert passed >= 3 and not re.search("failed|error", summary)


@pytest.mark.timeout(TIMEOUT)
def test_the_new_backend_conforms_by_the_command_that_its_readme_names(desk):
    readme = (desk / "backend" / "README.md").read_text()
    assert ".venv/bin/anyvisor conformance --backend my-backend\n" in readme
    out = anyvisor(desk, "conformance", "--backend", "my-backend", "--match", "RunningContract")  # all: the test above
    assert "my-backend conforms to version" in out
