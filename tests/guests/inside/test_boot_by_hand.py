"""A person at a terminal: `anyvisor boot` with a real kernel on real KVM."""

from by_hand import use_and_leave

BOOT_SECONDS = 120


def test_a_debian_kernel_is_used_from_a_terminal_and_left_by_the_escape_key(cloud_kernel, busybox, tmp_path):
    use_and_leave("kvm", cloud_kernel, busybox, tmp_path, BOOT_SECONDS)
