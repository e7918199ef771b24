"""The pages that KVM and the owner of a vCPU share: why the guest came out, and the data of its I/O.

Some facts about reading them fast. A ctypes structure costs a Python object per nested field; a memoryview cast to 32-
or 64-bit words is indexed at the speed of a list. So the run loop reads words, at indices that are worked out here
from the structures in `abi`, and unpacks what is particular to an exit in one call. Every access is checked against
the mapping's bounds, by the memoryview.

Only the thread that runs the vCPU touches the pages; other threads write `immediate_exit` and nothing else.
"""

from __future__ import annotations

import contextlib
import mmap
import struct

from anyvisor_kvm.abi import kvm_run, kvm_run_exits, kvm_run_mmio

PAGE_BYTES = mmap.PAGESIZE
UNION = kvm_run.exits.offset
IMMEDIATE_EXIT = kvm_run.immediate_exit.offset
EXIT_REASON_U32 = kvm_run.exit_reason.offset // 4
VALID_REGS_U64 = kvm_run.kvm_valid_regs.offset // 8
SYNC_REGS = kvm_run.s.offset
UNION_U64 = UNION // 8
UNION_WORDS = kvm_run_exits.words.size // 8

MMIO_DATA_U64 = (UNION + kvm_run_mmio.data.offset) // 8

IO = struct.Struct("<BBHIQ")
"""kvm_run_io: direction, size of an item in bytes, port, count of items, offset of the data."""
MMIO = struct.Struct("<QQIB")
"""kvm_run_mmio: guest-physical address, data, size in bytes, whether it is a write."""


class RunPage:
    """The mapping of one vCPU's fd, as bytes and as 16-, 32- and 64-bit words."""

    def __init__(self, fd: int, size_bytes: int):
        self.mapping = mmap.mmap(fd, size_bytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.u8 = memoryview(self.mapping)
        self.u16 = self.u8.cast("H")
        self.u32 = self.u8.cast("I")
        self.u64 = self.u8.cast("Q")

    def words(self, count: int, start_bytes: int = 0) -> tuple[int, ...]:
        """`count` 64-bit words of what is particular to the exit reason."""
        start = UNION_U64 + start_bytes // 8
        return tuple(self.u64[start : min(start + count, UNION_U64 + UNION_WORDS)])

    def close(self) -> None:
        """Unmap; any later access raises ValueError. Pages that a caller still holds a view of go with that view."""
        for give_back in (*(view.release for view in (self.u64, self.u32, self.u16, self.u8)), self.mapping.close):
            with contextlib.suppress(BufferError):
                give_back()
