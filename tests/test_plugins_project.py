"""Projects from the templates: names, files, and what pip, ruff and mypy make of them."""

import importlib.util
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from anyvisor.errors import ConfigError
from anyvisor.plugins.project import EVERY, KINDS, NAME_LIMIT, ProjectNames, write_project

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "core" / "anyvisor" / "plugins" / "templates"
FILES = sorted(path.relative_to(TEMPLATES).as_posix() for path in TEMPLATES.rglob("*") if path.is_file())
LONGEST = "a" * NAME_LIMIT

kinds = pytest.mark.parametrize("kind", KINDS)


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "distribution", "module"),
    [
        ("acme", "anyvisor-acme", "anyvisor_acme"),
        ("anyvisor-acme", "anyvisor-acme", "anyvisor_acme"),
        ("Anyvisor_Acme", "anyvisor-acme", "anyvisor_acme"),
        ("My.Own__Step", "anyvisor-my-own-step", "anyvisor_my_own_step"),
        ("9p", "anyvisor-9p", "anyvisor_9p"),
        ("class", "anyvisor-class", "anyvisor_class"),
        (LONGEST, f"anyvisor-{LONGEST}", f"anyvisor_{LONGEST}"),
    ],
)
def test_a_name_is_what_pip_and_python_make_of_it(text, distribution, module):
    names = ProjectNames.of(text)
    assert (names.distribution, names.module) == (distribution, module)
    assert names.module.isidentifier()


BAD = [
    "",
    "-",
    "-acme",
    "acme-",
    "anyvisor-",
    "a b",
    "a/b",
    "../a",
    "a\0b",
    "é",
    "İ",
    "a\n",
    "$name",
    "{x}",
    LONGEST + "a",
]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_name_is_refused(text, tmp_path):
    with pytest.raises(ConfigError, match="is no name for a plugin: take up to 40 letters"):
        write_project(text, "step", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text", ["kvm", "KVM", "anyvisor_unicorn", "linux", "pc", "mock", "serial", "i8042", "pit", "auto", "none"]
)
def test_names_of_our_own_are_taken(text):
    with pytest.raises(ConfigError, match=f"{text}' is the name of a.* already; take another"):
        ProjectNames.of(text)


# -- files -------------------------------------------------------------------------------------------------------------


@kinds
def test_a_project_has_all_its_files_under_its_own_names(kind, tmp_path):
    directory = write_project("my-own", kind, tmp_path / "somewhere" / "new")
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    templates = {each.partition("/")[2] for each in FILES if each.split("/")[0] in (EVERY, kind)}
    assert found == {each.removesuffix(".template").replace("MODULE", "anyvisor_my_own") for each in templates}
    assert {"pyproject.toml", "README.md", "src/anyvisor_my_own/__init__.py", "tests/test_anyvisor_my_own.py"} <= found
    for name in found:
        assert "$" not in (directory / name).read_text() and "\r" not in (directory / name).read_text()
    project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["entry-points"]) == (
        "anyvisor-my-own",
        {"anyvisor": {"my-own": "anyvisor_my_own"}},
    )


def test_an_empty_directory_will_do_and_the_default_is_called_as_the_distribution(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("anyvisor-acme").mkdir()
    assert write_project("acme", "step") == Path("anyvisor-acme")
    assert (tmp_path / "anyvisor-acme" / "README.md").exists()


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, words in {"full": "full is not empty", "file": "is there already, and no directory"}.items():
        with pytest.raises(ConfigError, match=f"{words}; name another --directory"):
            write_project("acme", "step", tmp_path / name)
    assert [path.name for path in (tmp_path / "full").iterdir()] == [".hidden"]


def test_a_kind_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="there is no kind 'thing' of plugin to begin; there are backend, step, device"
    ):
        write_project("acme", "thing", tmp_path)


def test_every_template_belongs_to_a_kind():
    assert {each.split("/")[0] for each in FILES} == {EVERY, *KINDS}
    assert all(each.endswith(".template") for each in FILES)


def test_the_templates_are_in_the_wheel_and_in_the_source_distribution(tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path), cwd=ROOT)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as source:
        inside = {name.partition("/")[2] for name in source.getnames()}
        assert {f"anyvisor/plugins/templates/{each}" for each in FILES} <= set(archive.namelist())
    assert {f"core/anyvisor/plugins/templates/{each}" for each in FILES} <= inside


def test_the_conformance_version_is_todays(tmp_path):
    from anyvisor.testing import CONFORMANCE_VERSION

    directory = write_project("acme", "backend", tmp_path / "new")
    assert f"conformance_version = {CONFORMANCE_VERSION}\n" in (directory / "tests/test_anyvisor_acme.py").read_text()


# -- judges ------------------------------------------------------------------------------------------------------------


def need(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"to run this: pip install {module}")


@kinds
@pytest.mark.parametrize("name", ["q", LONGEST, "-".join("a" * 20)])
def test_ruff_has_nothing_to_say_about_a_project(kind, name, tmp_path):
    need("ruff")
    directory = write_project(name, kind, tmp_path / "new")
    for command in (["check"], ["format", "--check"]):
        run(sys.executable, "-m", "ruff", *command, "--no-cache", ".", cwd=directory)


def test_mypy_has_nothing_to_say_about_the_projects(tmp_path):
    need("mypy")
    projects = [write_project(f"my-{kind}", kind, tmp_path / kind) for kind in KINDS]
    sources = [str(path) for project in projects for path in (project / "src", *project.glob("tests/*.py"))]
    run(sys.executable, "-m", "mypy", "--strict", "--cache-dir", "/dev/null", *sources, cwd=tmp_path)
