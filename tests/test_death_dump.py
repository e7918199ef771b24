"""What is left of a guest: which files, with what in them, and who may read them."""

import contextlib
import json
import os
import resource
from pathlib import Path

import pytest

from anyvisor.acts import PortOut
from anyvisor.death_dump import check_place, dump_machine
from anyvisor.errors import ConfigError, GuestError, HypervisorError
from anyvisor.exits import Shutdown
from anyvisor.launch import launch
from anyvisor.memory import MIB, Region
from anyvisor.outcome import Phase
from anyvisor.plan import Blob, BootPlan, DeviceSpec, VcpuPlan
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.modes import LONG, enter
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Regs, Sregs
from anyvisor_mock import MockHypervisor
from elf_cores import ElfCore

FILES = {"core", "report.txt", "report.json", "plan.json", "console.log", "exits.jsonl"}

DYING = (PortOut(0x3F8, 1, 0x41), Shutdown())


def boot_plan(*consoles, vcpus=1):
    ports = {name: 0x3F8 - 0x100 * number for number, name in enumerate(consoles)}
    devices = tuple(
        DeviceSpec("serial", name, ports=(Region(port, 8),), settings={"console": name}) for name, port in ports.items()
    )
    blobs = (Blob("words", 0x5000, b"what the guest had in its memory"),)
    return BootPlan(
        "x86_64",
        (Region(0, 2 * MIB),),
        blobs=blobs,
        vcpus=tuple(VcpuPlan(index, (Regs(rip=0x1234),)) for index in range(vcpus)),
        devices=devices,
    )


@contextlib.contextmanager
def dead(script=DYING, plan=None):
    """A machine whose guest has done that, and then died."""
    with launch(plan or boot_plan("ttyS0"), MockHypervisor(FACTS, script=[script])) as machine:
        machine.start()
        with pytest.raises(GuestError) as caught:
            machine.wait(10)
        yield machine, caught.value


@pytest.fixture(params=[0, 0o022, 0o777])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path):
    return path.stat().st_mode & 0o7777


def test_everything_is_there(tmp_path):
    with dead() as (machine, error):
        made = dump_machine(machine, tmp_path / "dump")
    assert {each.name for each in made.directory.iterdir()} == FILES == set(made.files)
    text = {name: path.read_text() for name, path in made.files.items() if name != "core"}
    assert BootPlan.from_json(text["plan.json"]) == boot_plan("ttyS0")
    assert text["report.txt"] == f"{error.report}\n"
    assert json.loads(text["report.json"]) == [json.loads(json.dumps(error.report.to_data()))]
    assert text["console.log"] == "A"
    exits = [json.loads(line) for line in text["exits.jsonl"].splitlines()]
    assert exits[0] == {"vcpu": 0, "kind": "out", "port": 0x3F8, "size": 1, "value": 0x41}
    assert exits[-1]["exit"] == "Shutdown"
    core = ElfCore(made.files["core"])
    assert core.read_physical(0x5000, 32) == b"what the guest had in its memory"
    assert made.debugger == f"gdb vmlinux {tmp_path / 'dump' / 'core'}"


def test_only_the_owner_may_read_it_whatever_the_umask(tmp_path, umask):
    with dead() as (machine, _):
        made = dump_machine(machine, tmp_path / "dump")
    assert mode(made.directory) == 0o700
    assert {mode(path) for path in made.files.values()} == {0o600}


def test_nothing_is_written_over_and_nothing_is_lost(tmp_path):
    place = tmp_path / "dump"
    with dead() as (machine, _):
        made = [dump_machine(machine, place) for _ in range(3)]
    assert [each.directory for each in made] == [place, place / "1", place / "2"]
    assert [mode(each.directory) for each in made] == [0o700] * 3
    assert all({path.name for path in each.files.values()} == FILES for each in made)


def test_an_empty_directory_is_used_as_it_is_and_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    with dead() as (machine, _):
        assert dump_machine(machine, tmp_path / "empty").directory == tmp_path / "empty"
        assert dump_machine(machine, tmp_path / "far" / "away").directory == tmp_path / "far" / "away"


def test_a_link_that_waits_in_the_directory_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    with dead() as (machine, _):
        place = tmp_path / "dump"
        made = dump_machine(machine, place)
        for path in made.files.values():
            path.unlink()
        with contextlib.ExitStack() as stack:
            stack.callback(os.umask, os.umask(0o022))
            iterdir = type(place).iterdir
            stack.callback(setattr, type(place), "iterdir", iterdir)
            type(place).iterdir = lambda path: iter(()) if path == place else iterdir(path)  # it comes in between
            (place / "report.txt").symlink_to(target)
            with pytest.raises(FileExistsError, match=r"report\.txt"):
                dump_machine(machine, place)
    assert not target.exists()


def test_a_full_disk_is_told_by_the_files_name_and_leaves_no_part_of_the_core(tmp_path):
    plan = boot_plan("ttyS0")
    with dead(plan=plan) as (machine, _):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 * MIB, before[1]))
        try:
            machine.memory.write(2 * MIB - 4096, b"beyond the limit")
            with pytest.raises(OSError, match="File too large") as caught:
                dump_machine(machine, tmp_path / "dump")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / "dump" / "core")
    assert {each.name for each in (tmp_path / "dump").iterdir()} == FILES - {"core"}


def test_a_machine_that_runs_is_paused_meanwhile_and_goes_on(tmp_path):
    with launch(boot_plan(), MockHypervisor(FACTS)) as machine:
        dump_machine(machine, tmp_path / "ready")
        machine.start()
        made = dump_machine(machine, tmp_path / "running")
        assert machine.phase is Phase.RUNNING
        machine.pause()
        dump_machine(machine, tmp_path / "paused")
        assert machine.phase is Phase.PAUSED
    assert json.loads(made.files["report.json"].read_text())[0]["vcpu"] == 0
    assert (tmp_path / "ready" / "core").exists() and (tmp_path / "paused" / "core").exists()


def test_a_machine_that_is_closed_is_refused(tmp_path):
    with dead() as (machine, _):
        pass
    with pytest.raises(GuestError, match="it is closed"):
        dump_machine(machine, tmp_path / "late")
    assert not (tmp_path / "late").exists()


RESET_SREGS = next(state for state in reset_states() if isinstance(state, Sregs))
BEFORE = {Regs: Regs(rip=0xBEF02E), Sregs: enter(LONG, RESET_SREGS)}


@pytest.mark.parametrize(
    ("is_lost", "script", "before", "rip", "bits", "since"),
    [
        (True, DYING[:1], BEFORE, 0xBEF02E, 64, "the last exit before"),
        (True, (), BEFORE, 0xBEF02E, 64, "the last entry"),
        (True, (), {}, 0x1234, 32, "the first instruction"),
        (False, DYING[:1], BEFORE, 0xFFF0, 32, None),
    ],
)
def test_registers_that_the_death_destroyed_are_those_of_before_and_it_is_told(
    is_lost, script, before, rip, bits, since, tmp_path
):
    with dead([*script, Shutdown(state_is_lost=is_lost)], boot_plan("ttyS0", vcpus=2)) as (machine, _):
        machine.flight[0].before.update(before)
        machine.vcpus[0].put(Regs(rip=0xFFF0))
        made = dump_machine(machine, tmp_path / "dump")
    core = ElfCore(made.files["core"])
    assert (core.instruction_pointer, core.bits) == (rip, bits)
    lost = f"the registers that vCPU 0 died with are lost, for the death reset it: those of {since} are in their place"
    assert made.left_out == ((lost,) if since else ())
    assert [content.decode() for name, _, content in core.notes if name == "ANYVISOR"] == list(made.left_out)


def test_registers_that_cannot_be_read_are_told_of(tmp_path):
    with dead() as (machine, _):
        machine.vcpus[0] = Unreadable()
        made = dump_machine(machine, tmp_path / "dump")
    assert made.left_out[0].startswith("Regs and Sregs of vCPU 0 are not known")


class Unreadable:
    index = 0

    def get(self, kind):
        raise HypervisorError("KVM_GET_REGS", 5)


def test_each_console_has_a_file_by_a_name_that_is_one(tmp_path):
    plan = boot_plan("ttyS0", "../odd name")
    with dead([PortOut(0x2F8, 1, 0x42), Shutdown()], plan) as (machine, _):
        made = dump_machine(machine, tmp_path / "dump")
    assert made.files["console-.._odd_name.log"].read_text() == "B"
    assert {each.parent for each in made.files.values()} == {tmp_path / "dump"}


def test_a_place_that_cannot_be_is_refused_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    check_place(tmp_path)
    check_place(tmp_path / "new" / "one")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="file is none; name another"):
            check_place(place)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ConfigError, match=f"{tmp_path} cannot be written to; name another"):
        check_place(tmp_path / "new" / "one")


def test_a_file_that_is_swapped_for_a_link_while_it_is_made_is_not_followed(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.touch(0o644)
    real = os.open

    def swapping(path, flags, *mode):
        fd = real(path, flags, *mode)
        if flags & os.O_EXCL:
            Path(path).unlink()
            Path(path).symlink_to(other)
        return fd

    with dead() as (machine, _), monkeypatch.context() as patch:
        patch.setattr(os, "open", swapping)
        dump_machine(machine, tmp_path / "dump")
    assert mode(other) == 0o644
    assert other.read_bytes() == b""
