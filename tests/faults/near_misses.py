"""Guests in a like situation as those with a fault, that must not be told to have it."""

from faults.careful import RUNS
from faults.codes import CLI, HLT, RESET, SPIN, UD2
from faults.fault import code

# fmt: off
STI = b"\xfb"
COUNT = b"\xfe\x05"                                             # incb, of what lies that far behind the instruction
PROBE = b"\xe4\x99" * 20                                        # in $0x99, %al
POLL_UART = b"\x66\xba\xfd\x03\xec\xa8\x80\x74\xfb"             # mov $0x3fd, %dx; in (%dx), %al; test $0x80, %al; jz
PRINT = b"\x66\xba\xf8\x03\xb0\x2e\xee\xeb\xfd"                 # mov $0x3f8, %dx; mov $'.', %al; out; jmp
RELOAD_DS = b"\xb8\x18\0\0\0\x8e\xd8" + RESET                   # mov $0x18, %eax; mov %eax, %ds
PATCH = b"\xc6\x05\2\0\0\0\x90\xeb\0\x06" + RESET             # movb $0x90, 2(%rip); jmp to what it has written
PATCH_JUMP = b"\xc6\x05\1\0\0\0\2\xeb\0\x90\x90" + UD2       # movb $2, 1(%rip); jmp by what it has written; ud2
CALL_DEEP = (                                                   # mov $500, %ecx; call f; ud2
    b"\xb9\xf4\1\0\0\xe8\2\0\0\0" + UD2
    + b"\xff\xc9\x74\5\xe8\xf7\xff\xff\xff\xc3"                   # f: dec %ecx; jz to the ret; call f; ret
)
WRITES_SOME = b"\xb0\1" + b"\xe6\x99" * 70                       # mov $1, %al; out %al, $0x99
# fmt: on

NEAR_MISSES = (
    code("own-variable", "it writes a variable beside its code", COUNT + b"\2\0\0\0" + UD2 + b"\1", "undefined-opcode"),
    code(
        "variable-in-code",
        "the same, 66 bytes on, with code around it",
        COUNT + b"\x42\0\0\0" + UD2 + b"\x90" * 100,
        "undefined-opcode",
    ),
    code("patches-itself", "it changes its own code, and is well", PATCH, RUNS),
    code("patches-jump", "it changes where a jump leads, and dies there", PATCH_JUMP, "undefined-opcode"),
    code(
        "calls-deep",
        "it calls itself 500 times, comes back, and dies",
        CALL_DEEP,
        "undefined-opcode",
        "unknown-exception",
    ),
    code(
        "tells-nobody",
        "it writes to a port that nobody answers 70 times, then dies",
        WRITES_SOME + UD2,
        "undefined-opcode",
    ),
    code("probes", "it asks a port that nobody answers 20 times, then dies", PROBE + UD2, "undefined-opcode"),
    code("waits", "HLT with interrupts on", STI + HLT + b"\xeb\xfd", "halted-waiting"),
    code("spins-open", "a loop with interrupts on", STI + SPIN, "spinning"),
    code("polls-device", "a device is polled that is there", POLL_UART, "polling-device"),
    code("prints", "it prints without end", CLI + PRINT, ""),
    code("loads-ds", "a selector that the GDT has", RELOAD_DS, RUNS),
)
