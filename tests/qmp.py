"""A question to a QEMU that has its QMP on standard input and output."""

import json


def ask(process, command, **arguments):
    """QEMU's answer; an AssertionError for a refusal, or when QEMU has ended."""
    json.dump({"execute": command, "arguments": arguments}, process.stdin)
    process.stdin.flush()
    for line in process.stdout:
        answer = json.loads(line)
        assert "error" not in answer, answer
        if "return" in answer:
            return answer["return"]
    raise AssertionError(f"QEMU ended with {process.wait()}")
