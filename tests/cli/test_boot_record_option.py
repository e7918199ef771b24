"""`anyvisor boot --record`: a trace of what the guest did, whatever the hypervisor and however it ended."""

from anyvisor.acts import PortOut
from anyvisor.recording.trace import Trace

BOOT = ("boot", "--backend", "scripted")


def printed(path):
    trace = Trace.load(path)
    (vcpu,) = trace.vcpus
    acts = [act for run in trace.runs(vcpu) for act in run.acts]
    return bytes(act.value for act in acts if isinstance(act, PortOut) and act.port == 0x3F8)


def test_what_the_guest_did_is_in_the_file_and_the_command_does_what_it_does_without(run, kernel, tmp_path):
    bare, done = run(*BOOT, kernel), run(*BOOT, kernel, "--record", tmp_path / "it.trace")
    assert (done.returncode, done.stdout) == (bare.returncode, bare.stdout) == (0, "hello from the guest\r\n")
    assert printed(tmp_path / "it.trace") == b"hello from the guest\r\n"
    assert Trace.load(tmp_path / "it.trace").facts.backend == "scripted"


def test_a_guest_that_dies_leaves_its_trace(run, kernel, tmp_path):
    done = run(*BOOT, kernel, "--record", tmp_path / "it.trace", script="crash")
    assert done.returncode == 1
    assert printed(tmp_path / "it.trace") == b"about to crash\r\n"


def test_a_file_that_cannot_be_written_is_a_mistake_in_one_line(run, kernel, tmp_path):
    done = run(*BOOT, kernel, "--record", tmp_path / "absent" / "it.trace")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("anyvisor: error: ") and "No such file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_told_after_the_guest_has_ended(run, kernel):
    done = run(*BOOT, kernel, "--record", "/dev/full")
    assert done.returncode == 1
    assert done.stdout == "hello from the guest\r\n"
    assert "anyvisor: error: " in done.stderr and "the recording ended early" in done.stderr


def test_an_emulated_guest_is_recorded(run, tmp_path):
    from guests_in_bytes import HELLO, elf

    (tmp_path / "guest").write_bytes(elf(HELLO))
    done = run("boot", tmp_path / "guest", "--backend", "unicorn", "--memory", "16M", "--record", tmp_path / "it.trace")
    assert done.returncode == 0, done.stderr
    assert printed(tmp_path / "it.trace") == b"hello from the guest\r\n"
