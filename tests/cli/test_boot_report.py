"""`anyvisor boot` of a guest that dies: the page on stderr, the report as JSON, names from `--symbols`."""

import json

import pytest
from guests_in_bytes import LOAD_ADDRESS

BOOT = ("boot", "--backend", "scripted")


@pytest.fixture
def symbols(tmp_path):
    """A System.map with the kernel's entry in it."""
    path = tmp_path / "System.map"
    path.write_text(f"{LOAD_ADDRESS:016x} T startup_64\n{LOAD_ADDRESS + 0x1000:016x} T start_kernel\n")
    return path


def test_the_page_is_on_stderr_after_the_end(run, kernel):
    done = run(*BOOT, kernel, script="crash")
    assert done.returncode == 1
    told = done.stderr.splitlines()
    assert told[0].startswith("anyvisor: machine ended: died")
    assert told[1].startswith("anyvisor: error: vCPU 0 died: triple fault")
    titles = [line.split(":")[0] for line in told if line[:1].isupper()]
    assert titles[:1] == ["Likely cause"]
    assert {"Registers", "Code", "Segments", "Page walks", "Stack", "Last exits"} <= set(titles)
    assert "about to crash" in done.stderr.partition("Last lines of the console")[2]


def test_symbols_name_where_it_died(run, kernel, symbols):
    done = run(*BOOT, kernel, "--symbols", symbols, script="crash")
    assert f"at RIP {LOAD_ADDRESS:#x} (startup_64)" in done.stderr.replace("\n", " ")


def test_the_report_as_json_has_the_sections_of_the_page(run, kernel, tmp_path):
    path = tmp_path / "report.json"
    done = run(*BOOT, kernel, "--json", path, script="crash")
    data = json.loads(path.read_text())
    assert done.returncode == 1
    assert data["summary"].startswith("vCPU 0 died: triple fault")
    assert data["causes"][0]["name"]
    assert "Registers" in [section["title"] for section in data["sections"]]


def test_a_file_without_symbols_is_a_mistake_and_nothing_runs(run, kernel, tmp_path):
    (tmp_path / "no-symbols").write_text("nothing of the kind\n")
    done = run(*BOOT, kernel, "--symbols", tmp_path / "no-symbols", script="crash")
    assert done.returncode == 2
    assert "no-symbols" in done.stderr
    assert done.stdout == ""


def test_a_report_that_cannot_be_written_hides_no_death(run, kernel):
    done = run(*BOOT, kernel, "--json", "/dev/full", script="crash")
    assert done.returncode == 1
    assert "warning: /dev/full: the report could not be written: No space left" in done.stderr
    assert "vCPU 0 died: triple fault" in done.stderr


UNPACKER_THAT_GAVE_UP = b"\xf4\xeb\xfd" + bytes(64) + b" -- System halted\0"


@pytest.fixture
def raw_guest(tmp_path):
    """The options for a flat binary with those bytes."""

    def options(code):
        path = tmp_path / "guest.bin"
        path.write_bytes(code)
        return ("boot", path, "--protocol", "raw", "--raw-mode", "long", "--backend", "unicorn", "--timeout", "0.5")

    return options


@pytest.mark.parametrize(("code", "exit_code"), [(UNPACKER_THAT_GAVE_UP, 1), (b"\xf4", 0)], ids=["gave up", "done"])
def test_a_halt_that_is_a_failure_is_told_from_one_that_is_none(run, raw_guest, code, exit_code):
    pytest.importorskip("unicorn")
    done = run(*raw_guest(code))
    assert done.returncode == exit_code
    assert "machine ended: halted" in done.stderr
    assert ("The kernel could not unpack itself" in done.stderr) == bool(exit_code)


def test_a_guest_that_runs_through_zeros_is_said_to_when_its_time_is_over(run, raw_guest):
    pytest.importorskip("unicorn")
    done = run(*raw_guest(b"\x90"))
    assert done.returncode == 4
    assert "executes zeros" in done.stderr
    assert "What to do: check the entry address" in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80


def test_the_page_fits_a_terminal_of_80_columns(run, kernel):
    told = run(*BOOT, kernel, script="crash").stderr
    prose, registers = told.partition("\nRegisters")[0], told.partition("\nRegisters")[2].partition("\nCode")[0]
    assert "anyvisor: error: vCPU 0 died" in prose
    assert max(map(len, (*prose.splitlines(), *registers.splitlines()))) <= 80
