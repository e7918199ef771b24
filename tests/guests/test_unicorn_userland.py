"""Debian's programs, dynamically linked, on the emulated processor: they compute what they compute on this host."""

import re
import time

import pytest
from availability import available
from glibc_userland import debian_initramfs, on_host

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig

pytestmark = pytest.mark.timeout(150)

SCRIPTS = {
    "integers": r"""
        perl -Mstrict -Mwarnings -e 'my $x = 88172645463325252;
            for (1 .. 20000) { $x ^= $x << 13; $x ^= $x >> 7; $x ^= $x << 17 }
            print "$x ", 2**62 % 1000003, " ", -7 / 2, " ", -7 % 3, " ", ~0, "\n"'
        perl -MList::Util=sum,shuffle -MPOSIX=floor,strtol -e 'print sum(map { $_ * $_ } 1 .. 1000),
            " ", floor(-2.5), " ", join(",", strtol("7f", 16)), "\n"'
    """,
    "strings_and_hashes": r"""
        perl -e 'my %count; $count{$_ % 97 . chr(97 + $_ % 26)}++ for 1 .. 20000;
            my @first = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 9];
            print join(" ", map "$_=$count{$_}", @first), "\n";
            (my $text = "the quick brown fox " x 50) =~ s/(\w+) (\w+)/\u$2 $1/g;
            print length $text, " ", unpack("%32C*", $text), " ", scalar reverse(substr $text, 0, 30), "\n"'
    """,
    "doubles": r"""
        perl -e 'my ($x, $y) = (0.1, 1);
            for (1 .. 20000) { $x = 3.9 * $x * (1 - $x); $y += sqrt($x) / $_ }
            printf "%.17g %.17g %a %e %.3f %g %s\n", $x, $y, $x, 1 / 3, 2.0005, 1e-320, 9**9**9;
            printf "%d %d %.0f %.0f\n", 2**53 + 1, -1.9, 0.5, 1.5'
    """,
    "bash_arithmetic_and_pipelines": r"""
        echo $((2**62 / 7 % 1000)) $((-17 % 5)) $((16#ff << 8 | 1)) $((~0))
        fibonacci() { local a=0 b=1 i; for ((i = 0; i < $1; i++)); do ((b += a, a = b - a)); done; echo "$a"; }
        fibonacci 90
        for i in {1..300}; do echo "$((i * 7919 % 1009)) line$i"; done | sort -n |
            head -n 5 | cut -d' ' -f2 | tr a-z A-Z
        seq 1 2000 | grep -c 7; seq 1 500 | sed -n 's/^\(.\)\(.\)$/\2\1/p' | sort -u | wc -l
        mapfile -t lines < <(seq 5 9); echo "${lines[@]: -2}" "${#lines[@]}"
    """,
    "sort": r"""
        for ((i = 1; i <= 3000; i++)); do echo "$((i * 48271 % 65537)) key$((i % 17))"; done >unsorted
        sort unsorted | sha256sum; sort -n unsorted | sha256sum; sort -k2,2 -k1,1nr unsorted | sha256sum
        sort -S 64K --parallel=2 unsorted unsorted | uniq -c | sha256sum
    """,
    "sha256": r"""
        sha256sum <"$(command -v perl)"; sha256sum <"$(command -v bash)"
    """,
    "gzip": r"""
        seq 1 250000 >numbers; wc -c <numbers; md5sum <numbers
        gzip -nc numbers >packed; wc -c <packed; md5sum <packed; gzip -dc packed | md5sum
        gzip -n1c "$(command -v perl)" | gzip -dc | cmp - "$(command -v perl)" && echo the same
    """,
    "alarm_in_a_busy_loop": r"""
        perl -e '$SIG{ALRM} = sub { $woken++ }; alarm 1; 1 until $woken; print "woken\n"'
    """,
    "processes_in_parallel": r"""
        for seed in 1 2 3 4 5; do
            perl -e 'my $x = shift() / 7; $x = 3.99 * $x * (1 - $x) for 1 .. 150000;
                printf "%.17g\n", $x' $seed >part$seed &
        done
        wait; cat part1 part2 part3 part4 part5
        mkfifo pipe; seq 1 3000 >pipe & sort -rn <pipe | md5sum; wait
        seq 1 3000 | tee >(md5sum >second) | md5sum; wait; sleep 0.2; cat second
    """,
    "signals": r"""
        trap 'echo got USR1' USR1
        (sleep 0.3; kill -USR1 $$; sleep 0.5) & wait $!; echo "wait was interrupted: $?"; wait
        sleep 100 & kill $!; wait $!; echo "terminated: $?"
        (kill -9 $BASHPID); echo "killed: $?"
        perl -e 'pipe my $r, my $w; if (fork) { close $w; print <$r>; wait; print $? >> 8, "\n" }
            else { close $r; print $w "from the child\n"; close $w; exit 7 }'
        perl -e 'my $p = 0; print 1 / $p' 2>&1; echo $?
        perl -e '$SIG{SEGV} = "DEFAULT"; kill SEGV => $$'; echo $?
        trap 'echo leaving' EXIT  # last, since a child that is killed before its program starts would leave, too
    """,
}
"""What is run here and there. Arithmetic that depends on fused multiply-add is not among it."""


class Shell:
    """A bash on the guest's console."""

    def __init__(self, machine):
        self.console = machine.console
        self.count = 0

    def run(self, command, timeout=60):
        """What a command prints, and its exit status."""
        self.count += 1
        number = self.count
        self.console.write(f"echo BEGIN-$(({number})); {command}; echo END-$(({number}))-$?\n")
        found = self.console.expect(re.compile(rf"BEGIN-{number}\r\n(.*?)END-{number}-(\d+)\r\n", re.DOTALL), timeout)
        self.console.expect("guest# ", 20)
        return found[1].replace("\r\n", "\n"), int(found[2])


@pytest.fixture(scope="module")
def machine(cloud_kernel, busybox, tmp_path_factory):
    initrd = tmp_path_factory.mktemp("userland") / "initrd.cpio"
    archive = available(lambda: debian_initramfs(busybox))
    for name, script in SCRIPTS.items():
        archive.file(f"/scripts/{name}", script.encode())
    archive.write(initrd)
    command_line = f"{DEFAULT_COMMAND_LINE} quiet loglevel=3 8250.nr_uarts=1"
    config = MachineConfig(kernel=cloud_kernel.vmlinuz, initrd=initrd, memory="256M", command_line=command_line)
    with anyvisor.boot(config, backend="unicorn") as machine:
        machine.console.expect("guest# ", timeout=60)
        yield machine


@pytest.fixture(scope="module")
def shells(machine):
    return Shell(machine)


@pytest.fixture
def shell(shells):
    return shells


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_guest_computes_what_the_host_computes(name, shell, tmp_path):
    expected = on_host(SCRIPTS[name], tmp_path)
    assert expected.count("\n") >= 1
    assert shell.run(f"bash /scripts/{name} 2>/dev/null", timeout=60) == (expected, 0)


@pytest.mark.parametrize("seconds", [0.3, 2])
def test_sleep_takes_as_long_as_it_says(seconds, shell):
    began = time.monotonic()
    shown, _ = shell.run(f"a=$EPOCHREALTIME; sleep {seconds}; b=$EPOCHREALTIME; echo $((${{b/./}} - ${{a/./}}))")
    assert seconds <= time.monotonic() - began < seconds + 20
    assert seconds * 0.95 <= int(shown) / 1e6 < seconds + 20


def test_ctrl_c_interrupts_a_sleep(shell):
    began = time.monotonic()
    shell.console.write("sleep 100\n")
    shell.console.expect("sleep 100\r\n", 20)
    time.sleep(0.5)
    shell.console.write("\x03")
    shell.console.expect("^C", 20)
    shell.console.expect("guest# ", 20)
    assert shell.run("echo still here") == ("still here\n", 0)
    assert time.monotonic() - began < 30


def test_a_busy_job_is_stopped_put_into_the_background_and_interrupted(shell):
    console = shell.console
    console.write("perl -e '1 while 1'\n")
    time.sleep(1)
    console.write("\x1a")
    console.expect(re.compile(r"\[1\]\+ +Stopped +perl"), 20)
    console.expect("guest# ", 20)
    console.write("bg\n")
    console.expect(re.compile(r"\[1\]\+ perl .*&"), 20)
    console.expect("guest# ", 20)
    shown, _ = shell.run("jobs; echo $((6 * 7)); sleep 0.2")
    assert re.fullmatch(r"\[1\]\+ +Running +perl [^\n]*\n42\n", shown)
    console.write("fg\n")
    time.sleep(0.5)
    console.write("\x03")
    console.expect("^C", 20)
    console.expect("guest# ", 20)
    assert shell.run("jobs") == ("", 0)


def test_the_machine_is_unharmed(shell, machine):
    log, status = shell.run(
        "busybox dmesg | grep -iE 'bug:|oops|call trace|lockup|stall|segfault'; grep -c . /proc/interrupts"
    )
    assert (re.sub(r"^\d+\n$", "", log), status) == ("", 0)
    machine.console.write("reboot -f\n")
    assert machine.wait(20).reason == "reset"
