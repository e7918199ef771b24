"""Opening KVM, and everything that can be wrong with it; what it then says about the host."""

import contextlib
import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_guests import SMALLEST, Guest, Source, held

import anyvisor_kvm.x86_64
from anyvisor.errors import HypervisorError, HypervisorUnavailable
from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability, HostFacts
from anyvisor.hypervisor import Hypervisor, Vcpu, Vm
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.msrs import Msrs
from anyvisor_kvm import fds, run_page
from anyvisor_kvm.hypervisor import open_kvm
from anyvisor_kvm.x86_64 import has_virtualisation
from rounds import rounds

GET_API_VERSION, CHECK_EXTENSION, CREATE_VM = 0xAE00, 0xAE03, 0xAE01
IMMEDIATE_EXIT, XCRS = 136, 56
IF = 1 << 9 | 1 << 1
"""RFLAGS with interrupts on; bit 1 is always set."""


@pytest.fixture
def libc(monkeypatch):
    """Lets a test answer ioctl calls in the kernel's place: `libc(function)`; None lets one through."""
    real = fds._libc_ioctl

    def install(answer):
        def fake(fd, request, argument):
            found = answer(fd, request, argument)
            if isinstance(found, OSError):
                ctypes.set_errno(found.errno)
                return -1
            return real(fd, request, argument) if found is None else found

        monkeypatch.setattr(fds, "_libc_ioctl", fake)

    return install


def test_a_device_that_is_not_there_says_how_to_get_it():
    with pytest.raises(
        HypervisorUnavailable, match=r"/nowhere/kvm: No such file.*modprobe kvm-intel.*firmware.*nested"
    ):
        open_kvm("/nowhere/kvm")


def test_a_file_that_is_no_kvm_says_so(tmp_path):
    path = tmp_path / "kvm"
    path.write_bytes(b"")
    before = held()
    with pytest.raises(HypervisorUnavailable, match=r"Inappropriate ioctl for device; name KVM's own device, /dev/kvm"):
        open_kvm(path)
    assert held() == before


def test_a_device_that_is_forbidden_says_which_group_to_join(tmp_path):
    tmp_path.chmod(0o755)
    path = tmp_path / "kvm"
    path.write_bytes(b"")
    path.chmod(0)
    code = f"""
import os
from anyvisor_kvm.hypervisor import open_kvm
if os.getuid() == 0:
    os.seteuid(65534)
open_kvm({str(path)!r})
"""
    for folder in (*tmp_path.parents, tmp_path):
        if folder.owner() == "root" and os.getuid() == 0 and str(folder).startswith(str(tmp_path.parents[1])):
            folder.chmod(0o755)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert "HypervisorUnavailable" in found.stderr
    assert "Permission denied; join the group that owns it (usermod -aG kvm" in found.stderr


def test_another_api_version_is_refused(libc, tmp_path):
    libc(lambda fd, request, argument: 11 if request == GET_API_VERSION else None)
    with pytest.raises(HypervisorUnavailable, match="has API version 11; anyvisor needs 12"):
        open_kvm("/dev/null")


def test_missing_capabilities_are_all_named(libc):
    def answer(fd, request, argument):
        if request == GET_API_VERSION:
            return 12
        return int(argument not in (IMMEDIATE_EXIT, XCRS)) if request == CHECK_EXTENSION else None

    libc(answer)
    with pytest.raises(HypervisorUnavailable, match="lacks IMMEDIATE_EXIT, XCRS; run a newer kernel"):
        open_kvm("/dev/null")


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (errno.EBUSY, r"/dev/kvm: KVM_CREATE_VM: EBUSY, .*; another hypervisor holds .*VT-x, AMD-V.* shut down"),
        (errno.ENOMEM, r"/dev/kvm: KVM_CREATE_VM: ENOMEM, .*; the host has no memory left .* raise the limit"),
        (errno.EMFILE, r"KVM_CREATE_VM: EMFILE, .*ulimit -n"),
        (errno.EPERM, r"KVM_CREATE_VM: EPERM, .*; see the kernel's log"),
    ],
)
def test_a_host_that_cannot_have_a_vm_just_now_says_why_and_what_helps(usable_kvm, libc, cause, words):
    before = held()
    libc(lambda fd, request, argument: OSError(cause, "") if request == CREATE_VM else None)
    with pytest.raises(HypervisorUnavailable, match=words) as caught:
        open_kvm()
    assert caught.value.remedy
    assert held() == before


@pytest.mark.kvm
def test_no_error_of_opening_is_a_bare_one(usable_kvm, libc):
    """Whichever ioctl fails, from the first to the last that opening takes."""
    for failing in range(1000):
        calls = []

        def answer(fd, request, argument, failing=failing, calls=calls):
            calls.append(request)
            return OSError(errno.EIO, "") if len(calls) == failing + 1 else None

        libc(answer)
        with contextlib.suppress(HypervisorUnavailable):
            open_kvm().close()
        if len(calls) <= failing:
            break
    assert failing > 20


@pytest.mark.kvm
@pytest.mark.parametrize("number", [1 << 32, (1 << 32) + 5, (1 << 64) + 5, -1])
def test_the_id_of_a_vcpu_is_never_cut_off(kvm, number):
    with kvm.create_vm() as vm:
        with pytest.raises(
            HypervisorError, match=rf"KVM_CREATE_VCPU \(vCPU 0 with id .*{number:#x} does not fit in 32"
        ):
            vm.create_vcpu(0, number)
        with pytest.raises(HypervisorError, match=rf"vCPU {number}: {number:#x} does not fit in 32 bits"):
            vm.create_vcpu(number)
        vm.create_vcpu(0, 5)


@pytest.mark.parametrize("number", [1 << 64, (1 << 64) + 5, -1])
def test_a_number_that_an_ioctl_cannot_take_is_refused_before_it_is_called(libc, number):
    called = []
    libc(lambda fd, request, argument: called.append(argument) or 0)
    fd = fds.KvmFd(-1)
    fd.subject = "it"
    with pytest.raises(
        HypervisorError, match=rf"KVM_CHECK_EXTENSION \(it: {number:#x} does not fit in 64 bits\): EINVAL"
    ):
        fd.check_extension(number)
    assert not called
    fd.check_extension((1 << 64) - 1)
    assert called == [(1 << 64) - 1]


@pytest.mark.kvm
def test_an_ioctl_that_a_signal_interrupts_is_repeated(usable_kvm, libc):
    interrupted = []

    def answer(fd, request, argument):
        if interrupted.count(request) < 2:
            interrupted.append(request)
            return OSError(errno.EINTR, "")
        return None

    libc(answer)
    with open_kvm() as kvm, kvm.create_vm() as vm:
        vm.create_vcpu(0)
    assert {CREATE_VM, GET_API_VERSION} < set(interrupted)
    assert all(interrupted.count(each) == 2 for each in interrupted)


def whole_life(kvm):
    """With a timer that is called, and wakes the vCPU, and one that never will be."""
    source = Source()
    guest = Guest(kvm, SMALLEST, source=source)
    never, soon = guest.vm.clock.timer(list), guest.vm.clock.timer(guest.vcpu.kick)
    try:
        never.set(10**18)
        soon.set(0)
        assert guest.run(rflags=IF) == Kicked()
        assert guest.run() == Halted()
    finally:
        guest.close()


@pytest.mark.kvm
def test_whichever_call_fails_nothing_is_left_behind(usable_kvm, libc):
    """Fail the first ioctl of opening, making and running a VM; then the second; until all succeed."""
    before = held()
    for failing in range(1000):
        calls = []

        def answer(fd, request, argument, failing=failing, calls=calls):
            calls.append(request)
            return OSError(errno.EIO, "") if len(calls) == failing + 1 else None

        libc(answer)
        failed = False
        kvm = None
        try:
            kvm = open_kvm()
            vm = kvm.create_vm()
            vm.create_vcpu(0)
        except (HypervisorError, HypervisorUnavailable) as error:
            failed = str(error)
        finally:
            if kvm:
                kvm.close()
        assert held() == before, f"call {failing}: {calls[-1]:#x}"
        assert not failed or "Input/output error" in failed or "lacks" in failed
        if len(calls) <= failing:
            break
    assert not failed
    assert failing > 20


@pytest.mark.kvm
def test_the_pages_that_intel_borrows_lie_in_the_mmio_gap_and_come_before_vcpus(usable_kvm, libc):
    set_tss_addr, set_identity_map_addr, create_vcpu = 0xAE47, 0x4008AE48, 0xAE41
    calls = []

    def answer(fd, request, argument):
        calls.append((request, argument if isinstance(argument, int) else argument._obj))

    libc(answer)
    with open_kvm() as kvm, kvm.create_vm() as vm:
        calls.clear()
        kvm.create_vm()
        vm.create_vcpu(0)
    requests = [request for request, _ in calls]
    assert calls[requests.index(set_tss_addr)][1] == 0xFFFBD000
    assert calls[requests.index(set_identity_map_addr)][1].address == 0xFFFBC000
    assert max(map(requests.index, (set_tss_addr, set_identity_map_addr))) < requests.index(create_vcpu)


@pytest.mark.kvm
def test_a_vcpu_whose_pages_cannot_be_mapped_is_given_back(kvm, monkeypatch):
    vm = kvm.create_vm()
    before = held()

    def refuse(*args, **options):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(run_page.mmap, "mmap", refuse)
    with pytest.raises(HypervisorError, match=r"mmap \(the run pages of vCPU 0\): ENOMEM"):
        vm.create_vcpu(0)
    assert held() == before


@pytest.mark.kvm
def test_many_lives_leave_nothing_behind(kvm):
    whole_life(kvm)
    before = held()
    for _ in range(rounds(200)):
        whole_life(kvm)
    assert held() == before


@pytest.mark.kvm
def test_closing_the_hypervisor_closes_its_vms_and_twice_is_once(usable_kvm):
    before = held()
    kvm = open_kvm()
    vm = kvm.create_vm()
    vm.create_vcpu(0)
    kvm.create_vm().close()
    kvm.close()
    kvm.close()
    vm.close()
    assert held() == before
    with pytest.raises(HypervisorError, match="KVM_CREATE_VM: EBADF"):
        kvm.create_vm()
    with pytest.raises(HypervisorError, match="EBADF"):
        vm.create_vcpu(1)


@pytest.mark.kvm
def test_no_descriptor_is_inherited_by_a_program_that_is_started(kvm):
    with kvm.create_vm() as vm:
        vm.create_vcpu(0)
        ours = {int(each): _target(each) for each in os.listdir("/proc/self/fd") if "kvm" in _target(each)}  # noqa: PTH208
        assert {"/dev/kvm", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0"} <= set(ours.values())
        assert not any(map(os.get_inheritable, ours))


def _target(fd):
    try:
        return str(Path("/proc/self/fd", fd).readlink())
    except FileNotFoundError:
        return ""


@pytest.mark.kvm
def test_the_facts(kvm):
    facts = kvm.facts
    assert (facts.backend, facts.architecture) == ("kvm", "x86_64")
    assert {Capability.IRQCHIP, Capability.IRQFD, Capability.IOEVENTFD, Capability.KICK} <= facts.capabilities
    assert 1 <= facts.recommended_vcpus <= facts.max_vcpus
    assert facts.max_memory_slots >= 32
    assert len(facts.supported_state(Cpuid)) > 10
    assert len(facts.supported_state(Msrs)) > 10
    assert HostFacts.from_json(facts.to_json()) == facts


@pytest.mark.kvm
def test_the_address_width_is_the_processors(kvm):
    (line,) = {each for each in Path("/proc/cpuinfo").read_text().splitlines() if each.startswith("address sizes")}
    assert f": {kvm.facts.physical_address_bits} bits physical" in line


@pytest.mark.parametrize(("flags", "has"), [("fpu vmx", True), ("svm fpu", True), ("fpu vme", False)])
def test_a_processor_says_by_its_flags_whether_it_has_virtualisation(tmp_path, flags, has):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert has_virtualisation(cpuinfo) is has
    assert has_virtualisation(tmp_path / "none")


@pytest.mark.kvm
@pytest.mark.parametrize("is_native", [False, True])
def test_guests_of_a_software_kvm_are_emulated_and_small_and_the_facts_say_so(usable_kvm, monkeypatch, is_native):
    monkeypatch.setattr(anyvisor_kvm.x86_64, "has_virtualisation", lambda _: is_native)
    with open_kvm() as kvm:
        both = {Capability.NATIVE, Capability.FULL_SYSTEM}
        assert kvm.facts.capabilities & both == (both if is_native else set())
        assert [note[:12] for note in kvm.facts.notes] == ([] if is_native else ["software KVM"])


@pytest.mark.kvm
def test_the_classes_have_what_the_protocols_ask_for(kvm):
    with kvm.create_vm() as vm:
        for protocol, made in ((Hypervisor, kvm), (Vm, vm), (Vcpu, vm.create_vcpu(0))):
            assert {name for name in vars(protocol) if not name.startswith("_")} <= set(dir(made))


def test_the_plugin_names_the_backend_and_loads_nothing_heavy():
    code = (
        "import sys, anyvisor_kvm; print(anyvisor_kvm.anyvisor_hypervisors()); "
        "print([name for name in sys.modules if name.startswith(('anyvisor_kvm.', 'fcntl'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout.splitlines() == ["{'kvm': 'anyvisor_kvm.hypervisor:open_kvm'}", "[]"]
    assert anyvisor_kvm.anyvisor_hypervisors.anyvisor_impl
