"""`anyvisor plugins`, and the options before a command and the environment that choose plugins."""

import json
import re

import pytest

GDT = "import anyvisor\n@anyvisor.hookimpl\ndef anyvisor_gdt():\n    return '{}'\n"


@pytest.fixture
def installed(plugin_path, environment, tmp_path):
    """Install a plugin for the processes to come: `installed("name", source)`."""

    def install(name, source, entry=None):
        module = name.replace("-", "_")
        directory = plugin_path(name, module, source, directory=tmp_path / name)
        if entry:
            (directory / f"{module}-1.2.3.dist-info" / "entry_points.txt").write_text(f"[anyvisor]\n{entry}\n")
        environment["PYTHONPATH"] = f"{directory}:{environment['PYTHONPATH']}"

    return install


def listed(run, *options, **more):
    done = run(*options, "plugins", "--json", **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def names(infos):
    return [info["name"] for info in infos]


# -- the list ----------------------------------------------------------------------------------------------------------


def test_each_plugin_has_its_origin_its_hooks_and_the_time_of_its_import(run, installed):
    installed("slow-one", "import time; time.sleep(0.03)\n" + GDT.format("x"))
    found = {each["name"]: each for each in listed(run)["plugins"]}
    slow = found["slow-one"]
    assert slow.pop("import_ms") >= 30
    assert slow == {
        "name": "slow-one", "module": "slow_one", "distribution": "slow-one", "version": "1.2.3",
        "hooks": ["anyvisor_gdt"],
    }  # fmt: skip
    assert 0 <= found["kvm"]["import_ms"] < 1000
    (line,) = [line for line in run("plugins").stdout.splitlines() if line.startswith("slow-one")]
    assert re.fullmatch(r"slow-one +slow-one 1\.2\.3 +slow_one +\d+\.\d +gdt", line)


def test_blocked_plugins_and_problems_are_listed_and_not_warned_of(run, installed):
    installed("broken-one", "1/0")
    done = run("-p", "no:kvm", "-p", "no:unicron", "plugins")
    assert (done.returncode, done.stderr) == (0, "")
    table, _, rest = done.stdout.partition("\n\nBlocked\n")
    blocked, _, problems = rest.partition("\n\nProblems\n")
    assert not re.search("^kvm ", table, re.MULTILINE)
    assert re.fullmatch(r"  kvm \(anyvisor_kvm of anyvisor [\d.]+\)", blocked)
    assert problems.splitlines() == [
        "  plugin unicron: there is none of that name, so nothing is left out; did you mean unicorn?",
        "  plugin broken-one (of broken-one 1.2.3): cannot be imported: ZeroDivisionError: division by zero",
    ]
    data = listed(run, "-p", "no:kvm", "-p", "no:unicron")
    assert names(data["blocked"]) == ["kvm"]
    assert names(data["problems"]) == ["unicron", "broken-one"]
    assert "kvm" not in names(data["plugins"])


def test_where_nothing_is_blocked_or_wrong_nothing_is_said_of_it(run):
    assert not re.search("Blocked|Problems", run("plugins").stdout)


# -- -p no:NAME --------------------------------------------------------------------------------------------------------


def test_a_backend_that_is_blocked_is_gone(run, kernel):
    assert '"unicorn"' in run("backends", "--json").stdout
    assert '"unicorn"' not in run("-p", "no:unicorn", "backends", "--json").stdout
    done = run("-pno:unicorn", "plan", kernel, "--backend", "unicorn")
    assert done.returncode == 3
    assert re.search("there is no backend 'unicorn'; installed are kvm, .*(left out are unicorn)", done.stderr)


def test_a_block_keeps_a_broken_plugin_quiet(run, installed):
    installed("broken-one", "1/0")
    assert "ZeroDivisionError" in run("backends").stderr
    assert "ZeroDivisionError" not in run("-p", "no:broken-one", "backends").stderr
    assert "ZeroDivisionError" not in run("backends", env={"ANYVISOR_BLOCK": "broken-one"}).stderr


def test_the_environment_and_the_option_add_up(run):
    found = listed(run, "-p", "no:kvm", env={"ANYVISOR_BLOCK": "unicorn, pc"})
    assert sorted(names(found["blocked"])) == ["kvm", "pc", "unicorn"]


@pytest.mark.parametrize("value", ["kvm", "no:", "", "yes:kvm"])
def test_p_takes_nothing_but_no_and_a_name(run, value):
    done = run("-p", value, "plugins")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{value!r} is not of the form no:NAME" in done.stderr and done.stderr.count("\n") == 1


def test_a_plan_without_our_own_steps_is_an_error_that_names_the_step(run, kernel):
    done = run("-p", "no:linux", "plan", kernel)
    assert done.returncode == 1
    assert done.stderr == "anyvisor: error: no plugin provides anyvisor_memory_layout; left out are linux\n"


# -- --plugin MODULE ---------------------------------------------------------------------------------------------------

WRAPPER = """
from anyvisor import hookimpl
from anyvisor.x86_64.features import Feature

@hookimpl(wrapper=True)
def anyvisor_cpuid():
    return (yield).without(Feature.CLFSH)
"""


@pytest.fixture
def module(tmp_path, environment):
    """Write a module on the path, not installed."""

    def write(name, source):
        (tmp_path / "loose").mkdir(exist_ok=True)
        (tmp_path / "loose" / f"{name}.py").write_text(source)

    environment["PYTHONPATH"] = f"{tmp_path / 'loose'}:{environment['PYTHONPATH']}"
    return write


def test_a_module_is_a_plugin_for_one_command(run, module, kernel):
    module("my_steps", WRAPPER)
    adjusted = re.compile("anyvisor_cpuid +linux, adjusted by my_steps")
    assert adjusted.search(run("--plugin", "my_steps", "plan", kernel).stdout)
    assert not adjusted.search(run("plan", kernel).stdout)


def test_it_comes_before_all_others_and_last_on_the_list(run, module, installed):
    installed("pushy", GDT.format("pushy").replace("hookimpl", "hookimpl(tryfirst=True)"))
    module("mine", "import time; time.sleep(0.03)\n" + GDT.format("mine"))
    last = listed(run, "--plugin", "mine")["plugins"][-1]
    assert last["name"] == "mine" and last["import_ms"] >= 30
    assert json.loads(run("hooks", "gdt", "--json").stdout)["asked_first"] == "pushy"
    assert json.loads(run("--plugin", "mine", "hooks", "gdt", "--json").stdout)["asked_first"] == "mine"


@pytest.mark.parametrize("command", [("plugins",), ("--help",), ("plugin", "new", "x", "--kind", "step")])
def test_a_module_that_cannot_be_imported_is_a_mistake_whatever_the_command(run, tmp_path, command):
    done = run("--plugin", "no_such_module", *command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "anyvisor: error: plugin no_such_module cannot be imported: ModuleNotFoundError: No module named "
        "'no_such_module'; name a module on the path (PYTHONPATH adds to it), as module or module:attribute\n"
    )


def test_a_module_that_is_no_good_plugin_is_an_error_in_a_line(run, module):
    module("mine", GDT.format("x").replace("anyvisor_gdt", "anyvisor_gtd"))
    done = run("--plugin", "mine", "backends")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"anyvisor: error: plugin mine: there is no hook anyvisor_gtd.*did you mean anyvisor_gdt\?\n", done.stderr
    )


def test_a_command_of_such_a_module_is_there(run, module):
    source = """
        import click, anyvisor
        @anyvisor.hookimpl
        def anyvisor_commands(): return {"greet": "mine:greet"}
        @click.command()
        def greet(): click.echo("good day")
    """
    module("mine", source.replace("\n        ", "\n"))
    assert run("--plugin", "mine", "greet").stdout == "good day\n"
    assert "greet" in run("--plugin", "mine", "--help").stdout
    assert run("greet").returncode == 2


def test_what_one_call_chooses_is_forgotten_by_the_next(invoke):
    def found(*options):
        return names(json.loads(invoke(*options, "plugins", "--json").stdout)["plugins"])

    assert "kvm" not in found("-p", "no:kvm")
    assert "kvm" in found()
    assert invoke("-p", "no:kvm", "--help").exit_code == 0
    assert "kvm" in found()


# -- strict, API version, names taken twice ----------------------------------------------------------------------------


COMMANDS = "import anyvisor\n@anyvisor.hookimpl\ndef anyvisor_commands(): "


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("1/0", "cannot be imported: ZeroDivisionError"),
        ("ANYVISOR_API = 99", "left out: it needs version 99 of the plugin API, this anyvisor has 1; update anyvisor"),
        (GDT.format("x").replace("gdt()", "gdt(colour)"), "refused: "),
        (f"{COMMANDS} return 7", "must be no wrapper and return a dict"),
        (COMMANDS + "return {'boot': 'a:b'}", "offers a command boot"),
        (f"{COMMANDS} 1/0", "failed in anyvisor_commands"),
    ],
)  # fmt: skip
def test_what_is_a_warning_in_a_line_is_an_error_in_a_line_when_strict(run, installed, source, cause):
    installed("broken-one", source)
    lenient = run("--help")
    assert lenient.returncode == 0 and "Commands:" in lenient.stdout
    assert re.search(rf"\Aanyvisor: warning: plugin broken-one .*{cause}.*\n\Z", lenient.stderr)
    strict = run("--help", env={"ANYVISOR_STRICT": "1"})
    assert (strict.returncode, strict.stdout) == (1, "")
    assert re.search(rf"\Aanyvisor: error: plugin broken-one .*{cause}.*\n\Z", strict.stderr)


def test_a_backends_name_taken_twice_is_an_error_in_a_line_that_names_both_and_the_way_out(run, installed, kernel):
    installed("usurper", "import anyvisor\n@anyvisor.hookimpl\ndef anyvisor_hypervisors(): return {'kvm': 'a:b'}")
    for command in (["backends"], ["plan", kernel, "--backend", "kvm"], ["doctor"]):
        done = run(*command)
        assert done.returncode == 1
        assert done.stderr == (
            "anyvisor: error: anyvisor_hypervisors: both kvm and usurper offer 'kvm'; uninstall one of them, or leave "
            "one out: ANYVISOR_BLOCK=usurper\n"
        )
    assert run("-p", "no:usurper", "backends").returncode == 0
    assert run("backends", env={"ANYVISOR_BLOCK": "usurper"}).returncode == 0


def test_a_plugins_name_taken_twice_is_a_problem_that_names_both(run, installed):
    installed("usurper", GDT.format("x"), entry="kvm = usurper")
    (problem,) = listed(run)["problems"]
    assert (problem["name"], problem["distribution"]) == ("kvm", "usurper")
    taken = "refused: there is a plugin of that name already, anyvisor_kvm of anyvisor "
    assert problem["cause"].startswith(taken) and problem["cause"].endswith("; rename one, or leave one out")


def test_what_is_wrong_with_names_is_on_the_list(run, installed):
    installed("usurper", "import anyvisor\n@anyvisor.hookimpl\ndef anyvisor_hypervisors(): return {'kvm': 'a:b'}")
    installed("no-dict", f"{COMMANDS} return 7")
    problems = {each["name"]: each["cause"] for each in listed(run)["problems"]}
    assert "both kvm and usurper offer 'kvm'" in problems["usurper"]
    assert "anyvisor_commands must be no wrapper and return a dict" in problems["no-dict"]
    assert len(problems) == 2


# -- tracing -----------------------------------------------------------------------------------------------------------


def test_the_trace_of_a_plan_is_on_stderr_and_the_plan_as_ever_on_stdout(run, kernel):
    plain = run("plan", kernel)
    traced = run("plan", kernel, env={"ANYVISOR_TRACE": "1"})
    assert traced.stdout == plain.stdout and plain.stderr == ""
    lines = traced.stderr.splitlines()
    assert all(re.fullmatch(r"anyvisor: anyvisor_\w+\([\w=, ]*\): .*\d+\.\d{3} ms(: .*)?", line) for line in lines)
    assert "anyvisor_gdt(): linux, " in traced.stderr


def test_the_trace_of_a_boot_has_the_machines_life(run, kernel):
    done = run("boot", kernel, "--backend", "scripted", env={"ANYVISOR_TRACE": "1"})
    assert (done.returncode, done.stdout) == (0, "hello from the guest\r\n")
    hooks = re.findall(r"^anyvisor: (anyvisor_\w+)", done.stderr, re.MULTILINE)
    assert hooks[0] == "anyvisor_hypervisors"
    assert hooks[-3:] == ["anyvisor_device_factories", "anyvisor_machine_started", "anyvisor_machine_stopped"]
