"""A kernel that greets, prompts, and echoes what is typed, for the examples in the documentation to talk to."""

GREETING = b"userspace is up\r\nlogin: \r\n"
PROMPT = b"guest# "
RESET_KEY = b"f"
"""The letter that `reboot -f` has and no other line in the documentation: it resets the machine."""

# fmt: off
PRINT = bytes([0x66, 0xBA, 0xF8, 0x03,             # mov dx, 0x3f8
               0xAC,                               # next: lodsb
               0x84, 0xC0,                         # test al, al
               0x74, 0x03,                         # jz over
               0xEE,                               # out dx, al
               0xEB, 0xF8])                        # jmp next
ECHO = bytes([0x66, 0xBA, 0xFD, 0x03,              # over: mov dx, 0x3fd   line status
              0xEC,                                # in al, dx
              0xA8, 0x01,                          # test al, 1            is there a byte?
              0x74, 0xF7,                          # jz over
              0x66, 0xBA, 0xF8, 0x03,              # mov dx, 0x3f8
              0xEC,                                # in al, dx
              0xEE,                                # out dx, al
              0x3C, *RESET_KEY,                    # cmp al, 'f'
              0x74, 0x0D,                          # je reset
              0x3C, 0x0A,                          # cmp al, '\n'
              0x75, 0xE9])                         # jne over
RESET = bytes([0xB0, 0xFE,                         # reset: mov al, 0xfe
               0xE6, 0x64,                         # out 0x64, al          the keyboard controller pulls the line
               0xEB, 0xFE])                        # jmp .
# fmt: on


def talking_guest() -> bytes:
    """64-bit code, with its texts behind it, that runs at any address."""
    lea, jmp = bytes([0x48, 0x8D, 0x35]), bytes([0xE9])
    prompt_bytes = 12  # the lea and the jmp below
    code_bytes = 7 + len(PRINT) + len(ECHO) + prompt_bytes + len(RESET)
    greet = lea + (code_bytes - 7).to_bytes(4, "little")
    begin_of_prompt = len(greet) + len(PRINT) + len(ECHO)
    text = GREETING + PROMPT + b"\0"
    to_text = code_bytes + len(GREETING) - (begin_of_prompt + 7)
    to_print = len(greet) - (begin_of_prompt + prompt_bytes)
    prompt = lea + to_text.to_bytes(4, "little") + jmp + to_print.to_bytes(4, "little", signed=True)
    return greet + PRINT + ECHO + prompt + RESET + text
