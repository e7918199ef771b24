"""How fast a guest's time stamp counter counts, as KVM says."""

import ctypes
import errno
import mmap
import time

import pytest

from anyvisor.errors import HypervisorUnavailable
from anyvisor.x86_64.cpu_models import cpu_model
from anyvisor_kvm import fds
from anyvisor_kvm.hypervisor import open_kvm

CHECK_EXTENSION, GET_TSC_KHZ = 0xAE03, 0xAEA3
CAP_GET_TSC_KHZ = 61
RDTSC = bytes([0x0F, 0x31,              # rdtsc
               0x48, 0xC1, 0xE2, 0x20,  # shl rdx, 32
               0x48, 0x09, 0xD0,        # or rax, rdx
               0xC3])  # ret  # fmt: skip


@pytest.fixture
def answering(monkeypatch):
    """Lets a test answer one ioctl in the kernel's place."""
    real = fds._libc_ioctl

    def install(request_wanted, argument_wanted, answer):
        def fake(fd, request, argument):
            if request != request_wanted or argument_wanted not in (None, argument):
                return real(fd, request, argument)
            if answer < 0:
                ctypes.set_errno(-answer)
                return -1
            return answer

        monkeypatch.setattr(fds, "_libc_ioctl", fake)

    return install


def speed_of_this_processor():
    """Ticks of the host's own counter in a millisecond, measured for a quarter of a second."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(RDTSC)
    code = (ctypes.c_char * len(RDTSC)).from_buffer(page)
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))

    def both():
        """The time and the counter, read so close to each other as they are when nothing comes between."""
        looks = [(time.perf_counter(), rdtsc(), time.perf_counter()) for _ in range(20)]
        return min(looks, key=lambda look: look[2] - look[0])

    before, first, _ = both()
    time.sleep(0.25)
    after, last, _ = both()
    return (last - first) / (after - before) / 1000


@pytest.mark.kvm
def test_the_speed_is_that_of_this_processor(kvm):
    assert kvm.facts.guest_tsc_khz == pytest.approx(speed_of_this_processor(), rel=0.02)


@pytest.mark.kvm
def test_a_guest_can_measure_it(kvm):
    assert kvm.facts.tsc_khz == 0


@pytest.mark.kvm
def test_a_guest_is_told(kvm):
    table = cpu_model("host").cpuid(kvm.facts)
    assert table[0x4000_0010].registers == (kvm.facts.guest_tsc_khz, 1_000_000, 0, 0)
    assert table[0x4000_0000].eax == 0x4000_0010


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("request_", "argument", "answer"),
    [(CHECK_EXTENSION, CAP_GET_TSC_KHZ, 0), (GET_TSC_KHZ, None, -errno.EIO), (GET_TSC_KHZ, None, 0)],
    ids=["KVM does not say it", "the counter keeps no speed", "it is nought"],
)
def test_where_kvm_does_not_know_it_nobody_is_told(usable_kvm, answering, request_, argument, answer):
    answering(request_, argument, answer)
    with open_kvm() as kvm:
        assert kvm.facts.guest_tsc_khz == 0
        assert cpu_model("host").cpuid(kvm.facts).get(0x4000_0010) is None


@pytest.mark.kvm
def test_another_error_is_an_error(usable_kvm, answering):
    answering(GET_TSC_KHZ, None, -errno.EBUSY)
    with pytest.raises(HypervisorUnavailable, match=r"KVM_GET_TSC_KHZ.*EBUSY"):
        open_kvm()
