#!/usr/bin/env bash
# From a fresh Debian machine to the shell of a stock Debian kernel, booted by anyvisor on /dev/kvm.
#
#   bash examples/boot-debian.sh
#
# Needs Python 3.11 or later with its venv module, and apt (the kernel and a static BusyBox are fetched from Debian into
# a cache). On a machine with hardware virtualisation and access to /dev/kvm the console is yours; Ctrl-A x ends it.
# Elsewhere the same boot runs inside an emulated machine with a real /dev/kvm of its own, which needs QEMU
# (qemu-system-x86), and shows what the guest prints.
set -euo pipefail
cd "$(dirname "$0")/.."

can_run_linux() {
	grep -qwE 'vmx|svm' /proc/cpuinfo && [ -r /dev/kvm ] && [ -w /dev/kvm ]
}

cache=${ANYVISOR_TEST_CACHE:-$HOME/.cache/anyvisor-tests}
wanted=()
python3 -c 'import ensurepip' 2>/dev/null || wanted+=(python3-venv)
can_run_linux || command -v qemu-system-x86_64 >/dev/null || wanted+=(qemu-system-x86)
if [ "$(id -u)" -eq 0 ] && { [ ${#wanted[@]} -gt 0 ] || [ ! -e "$cache/linux-image-cloud-amd64" ]; }; then
	apt-get update -qq
fi
if [ ${#wanted[@]} -gt 0 ]; then
	if [ "$(id -u)" -ne 0 ]; then
		echo "missing Debian packages; run: sudo apt-get install --no-install-recommends ${wanted[*]}" >&2
		exit 1
	fi
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
fi

[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[lz4]'

if can_run_linux; then
	exec .venv/bin/python tests/guests/demo.py
fi
echo "This machine has no usable hardware virtualisation (no vmx or svm flag, or no access to /dev/kvm):"
echo "booting inside an emulated machine instead, where KVM is real. That takes about half a minute."
exec .venv/bin/python tests/guests/demo.py --emulated
