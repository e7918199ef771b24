"""A kernel that greets, prompts, and echoes what is typed, for the examples in the documentation to talk to.

Each line that is typed gets another prompt, and the letter f, as in `reboot -f`, resets the machine.
"""

GREETING = b"userspace is up\r\nlogin: \r\n"
PROMPT = b"guest# "

# fmt: off
TALKING_GUEST = bytes([0x48, 0x8D, 0x35, 0x35, 0x00, 0x00, 0x00,                   # lea rsi, [rip + 0x35]   the text
                       0x66, 0xBA, 0xF8, 0x03,                                     # print: mov dx, 0x3f8
                       0xAC,                                                       # next: lodsb
                       0x84, 0xC0,                                                 # test al, al
                       0x74, 0x03,                                                 # jz wait
                       0xEE,                                                       # out dx, al
                       0xEB, 0xF8,                                                 # jmp next
                       0x66, 0xBA, 0xFD, 0x03,                                     # wait: mov dx, 0x3fd
                       0xEC,                                                       # in al, dx
                       0xA8, 0x01,                                                 # test al, 1     was a byte typed?
                       0x74, 0xF7,                                                 # jz wait
                       0x66, 0xBA, 0xF8, 0x03,                                     # mov dx, 0x3f8
                       0xEC,                                                       # in al, dx
                       0xEE,                                                       # out dx, al
                       0x3C, ord("f"),                                             # cmp al, 'f'
                       0x74, 0x10,                                                 # je reset
                       0x3C, ord("\n"),                                            # cmp al, '\n'
                       0x75, 0xE9,                                                 # jne wait
                       0x48, 0x8D, 0x35, 0x0B + len(GREETING), 0x00, 0x00, 0x00,   # lea rsi, [prompt]
                       0xE9, 0xD1, 0xFF, 0xFF, 0xFF,                               # jmp print
                       0xB0, 0xFE,                                                 # reset: mov al, 0xfe
                       0xE6, 0x64,                                                 # out 0x64, al   the reset line
                       0xEB, 0xFE,                                                 # jmp .
                       *GREETING, *PROMPT, 0])
# fmt: on
