"""`anyvisor boot` of a guest that dies: the page on stderr, the report as JSON, names from `--symbols`."""

import json
import stat

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


def test_the_report_as_json_is_its_owners_only(run, kernel, tmp_path):
    path = tmp_path / "report.json"
    done = run(*BOOT, kernel, "--json", path, script="crash")
    data = json.loads(path.read_text())
    assert done.returncode == 1
    assert data["summary"].startswith("vCPU 0 died: triple fault")
    assert data["causes"][0]["name"]
    assert "Registers" in [section["title"] for section in data["sections"]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_death_there_is_no_report(run, kernel, symbols, tmp_path):
    done = run(*BOOT, kernel, "--symbols", symbols, "--json", tmp_path / "report.json")
    assert done.returncode == 0
    assert not (tmp_path / "report.json").exists()


def test_a_file_without_symbols_is_a_mistake_and_nothing_runs(run, kernel, tmp_path):
    (tmp_path / "no-symbols").write_text("nothing of the kind\n")
    done = run(*BOOT, kernel, "--symbols", tmp_path / "no-symbols", script="crash")
    assert done.returncode == 2
    assert "no-symbols" in done.stderr
    assert done.stdout == ""


def test_a_report_that_cannot_be_written_hides_no_death(run, kernel, tmp_path):
    done = run(*BOOT, kernel, "--json", tmp_path / "missing" / "report.json", script="crash")
    assert done.returncode == 1
    assert "warning: the report could not be written" in done.stderr
    assert "vCPU 0 died: triple fault" in done.stderr
