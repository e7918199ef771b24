"""An emulated processor as a hypervisor: the same kernels boot where there is no virtualisation at all.

The engine is Unicorn, QEMU's x86 processor as a library. Unicorn's core is GPLv2, so it is an extra
(`pip install 'anyvisor[unicorn]'`) and imported only when the backend is opened.
"""

from __future__ import annotations

from anyvisor.hookspecs import hookimpl


@hookimpl
def anyvisor_hypervisors() -> dict[str, str]:
    """The emulated processor, by the name `unicorn`."""
    return {"unicorn": "anyvisor_unicorn.hypervisor:open_unicorn"}
