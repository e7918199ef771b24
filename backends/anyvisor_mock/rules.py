"""KVM's rules, by name: what it refuses, how, and where that was seen.

Here are those that all architectures share; an architecture's own are in its folder. `docs/reference/mock.md` lists
them all, and the tests run each one, with near misses that KVM takes, against the mock and against KVM side by side.
"""

from __future__ import annotations

import errno
from types import ModuleType

import attrs

from anyvisor.errors import AnyvisorError, HypervisorError, Unsupported

MEASURED = "measured on kvm-amd of Linux 6.1 and on software KVM of Linux 6.18"
ON_NATIVE = "measured on kvm-amd of Linux 6.1; software KVM is laxer"
SOURCE = "the source of Linux 6.1; not measured"
BACKEND = "the kvm backend's own"


@attrs.frozen
class Rule:
    """Something that KVM refuses.

    `does` says what, in a sentence; `errno` is the number of its HypervisorError, None where the refusal is
    Unsupported; `seen` says where that is known from.
    """

    name: str
    does: str
    errno: int | None
    seen: str = MEASURED

    def broken(self, operation: str, detail: str) -> AnyvisorError:
        """The error for an operation that breaks the rule: it names both."""
        if self.errno is None:
            return Unsupported(f"{operation}: {detail} (rule {self.name})")
        return HypervisorError(operation, self.errno, f"{detail}; rule {self.name}")


def rules_in(*modules: ModuleType) -> tuple[Rule, ...]:
    """The rules that these modules declare, in their order."""
    return tuple(each for module in modules for each in vars(module).values() if isinstance(each, Rule))


CLOSED = Rule("closed", "Nothing can be asked of what has been closed, and nothing done with it.", errno.EBADF)
ONE_THREAD = Rule(
    "one-thread",
    "A vCPU that some thread is running belongs to it: no second `run`, and no `close`.",
    errno.EBUSY,
    BACKEND,
)
KNOWN_STATES = Rule(
    "known-states", "A state type that the facts do not name can neither be got nor put.", None, BACKEND
)
CAPABILITIES = Rule("capabilities", "What needs a capability that the facts lack cannot be done.", None, BACKEND)
DETERMINISTIC = Rule(
    "deterministic-is-a-capability",
    "A deterministic VM needs Capability.DETERMINISTIC, which KVM has not.",
    None,
    BACKEND,
)
ONE_CONTROLLER = Rule(
    "one-interrupt-controller",
    "A vCPU whose VM has interrupt chips in the hypervisor takes interrupts from no source.",
    None,
    BACKEND,
)
WIDTHS = Rule(
    "fields-have-widths", "A number that does not fit its field is refused and not cut off.", errno.EINVAL, BACKEND
)

VCPU_ID_UNIQUE = Rule(
    "vcpu-ids-are-unique",
    "Each vCPU of a VM has a number of its own; that of a closed one stays taken.",
    errno.EEXIST,
)
VCPU_ID_LIMIT = Rule("vcpu-id-limit", "vCPU numbers are below `hardware_id_limit`.", errno.EINVAL)
VCPU_LIMIT = Rule("vcpu-limit", "A VM has at most `max_vcpus` vCPUs.", errno.EINVAL)

MEMORY_PAGES = Rule("memory-in-pages", "RAM begins and ends at pages of 4096 bytes.", errno.EINVAL)
MEMORY_ADDRESSES = Rule("memory-has-addresses", "RAM lies below 2^52.", errno.EINVAL)
MEMORY_REACHABLE = Rule(
    "memory-is-reachable",
    "On a processor with nested paging, RAM lies within its physical addresses.",
    errno.EINVAL,
    SOURCE,
)
MEMORY_OVERLAP = Rule("memory-does-not-overlap", "No two regions of RAM share a page.", errno.EEXIST)
MEMORY_SLOTS = Rule("memory-slot-limit", "A VM has at most `max_memory_slots` regions of RAM.", errno.EINVAL)

FD_OPEN = Rule("fd-is-open", "An eventfd is an open descriptor.", errno.EBADF)
FD_EVENT = Rule("fd-is-an-eventfd", "An eventfd is an eventfd, not some other descriptor.", errno.EINVAL)
IRQFD_CHIPS = Rule("irqfd-needs-irqchip", "An irqfd needs the interrupt chips in the hypervisor.", errno.EINVAL)
IRQFD_ONCE = Rule("irqfd-once", "An eventfd raises one line.", errno.EBUSY)
IOEVENTFD_SIZES = Rule(
    "ioeventfd-sizes",
    "An ioeventfd watches 1, 2, 4 or 8 bytes, or 0 for writes of any size, and then for no single value.",
    errno.EINVAL,
)
IOEVENTFD_ONCE = Rule(
    "ioeventfd-once", "No two ioeventfds answer the same write, whichever eventfds they signal.", errno.EEXIST
)
IOEVENTFD_THERE = Rule(
    "ioeventfd-is-there", "Only an ioeventfd that is there, all of it the same, can be removed.", errno.ENOENT
)
