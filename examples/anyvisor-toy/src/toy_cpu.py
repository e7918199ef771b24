"""Somebody's hypervisor, which has never heard of anyvisor: seven instructions, one 8-bit register."""

MOV, LOAD, STORE, IN, OUT, JMP, HLT = 0xB0, 0xA0, 0xA2, 0xE4, 0xE6, 0xEB, 0xF4
LENGTHS = {MOV: 2, LOAD: 3, STORE: 3, IN: 2, OUT: 2, JMP: 2, HLT: 1}


class ToyCpu:
    def __init__(self):
        self.al, self.ip, self.code_base, self.data_base = 0, 0, 0, 0

    def step(self, memory, bus):
        """Execute one instruction; returns its opcode, None for one that it does not know."""
        start = self.code_base + self.ip
        opcode = memory[start] if start < len(memory) else None
        if opcode not in LENGTHS:
            return None
        operand = int.from_bytes(memory[start + 1 : start + LENGTHS[opcode]], "little")
        self.ip += LENGTHS[opcode]
        address = self.data_base + operand
        if opcode == MOV:
            self.al = operand
        elif opcode == JMP:
            self.ip += (operand ^ 0x80) - 0x80
        elif opcode == IN:
            self.al = bus.read_port(operand, 1)
        elif opcode == OUT:
            bus.write_port(operand, 1, self.al)
        elif opcode == LOAD:
            self.al = memory[address] if address < len(memory) else bus.read_mmio(address, 1)
        elif opcode == STORE and address < len(memory):
            memory[address] = self.al
        elif opcode == STORE:
            bus.write_mmio(address, 1, self.al)
        return opcode
