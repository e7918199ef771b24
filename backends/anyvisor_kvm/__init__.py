"""The KVM backend: virtual machines by Linux's own hypervisor, with nothing but the standard library.

This module only says where the backend is; the rest is imported when KVM is opened.
"""

from __future__ import annotations

from anyvisor.hookspecs import hookimpl


@hookimpl
def anyvisor_hypervisors() -> dict[str, str]:
    """`kvm`: Linux KVM, through /dev/kvm."""
    return {"kvm": "anyvisor_kvm.hypervisor:open_kvm"}
