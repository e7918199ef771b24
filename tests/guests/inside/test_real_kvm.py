"""The machine is what the other tests take it for: AMD's SVM, the real KVM on it, and the host's files."""

import os
import time
from pathlib import Path

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CREATE_VCPU = 0xAE41


def test_the_processor_has_svm_with_nested_paging():
    assert "svm" in Path("/proc/cpuinfo").read_text().split()
    assert Path("/sys/module/kvm_amd/parameters/npt").read_text().strip() in {"Y", "1"}


def test_dev_kvm_speaks_the_stable_api_and_makes_a_vcpu():
    from fcntl import ioctl

    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    assert ioctl(kvm, KVM_GET_API_VERSION) == 12
    vm = ioctl(kvm, KVM_CREATE_VM, 0)
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0)
    for fd in (vcpu, vm, kvm):
        os.close(fd)


def test_the_clock_is_the_hosts():
    written_by_the_host = Path("/share/now")
    written_by_the_host.write_text("now")
    assert abs(time.time() - written_by_the_host.stat().st_mtime) < 60


def test_temporary_files_stay_in_the_guest(tmp_path):
    mounted_on_tmp = [line.split() for line in Path("/proc/mounts").read_text().splitlines() if " /tmp " in line]
    assert mounted_on_tmp[-1][2] == "tmpfs"
    assert tmp_path.is_relative_to("/tmp")


def test_the_inputs_for_boots_are_there(generic_kernel, cloud_kernel, busybox):
    import lz4.frame

    for kernel in (generic_kernel, cloud_kernel):
        with kernel.vmlinuz.open("rb") as bzimage:
            assert bzimage.read(0x206)[0x202:] == b"HdrS"
    assert generic_kernel.version == os.uname().release != cloud_kernel.version
    assert os.access(busybox, os.X_OK)
    assert lz4.frame.decompress(lz4.frame.compress(b"payload")) == b"payload"
