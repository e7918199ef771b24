"""The planted faults: each by name, with what is done to a good plan, and what must be said of it first.

Where a host does not show a fault, since its processor does not look or its KVM repairs it, the guest runs to its end
there: that is asserted, too, and the reason stands with the fault.
"""

from faults.codes import CODES
from faults.fault import HOSTS, Fault
from faults.places import PLACES
from faults.states import STATES

FAULTS = (*STATES, *PLACES, *CODES)
GOOD = Fault("none", "nothing is wrong", lambda plan: plan, (), HOSTS)
