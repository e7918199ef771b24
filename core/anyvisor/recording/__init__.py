"""Writing down what a hypervisor does, as a trace that can be read, kept and played again.

`Recorder` wraps any hypervisor; what it wrote down is a `Trace`.
"""

from anyvisor.recording.recorder import Recorder
from anyvisor.recording.trace import Trace

__all__ = ["Recorder", "Trace"]
