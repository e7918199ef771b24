"""Why a guest died: from what is known of it to a report that names the likely cause.

    evidence = collect(machine, machine.vcpus[0])   # a value, with all that there is to see
    print(report(evidence))                         # a page for a reader

`collect` gathers the evidence from a machine, `report` judges it, and `death` makes the error of both that who waits
for the machine gets. What an architecture has to say is in its own `diagnosis` package.
"""

from anyvisor.diagnosis.collect import collect
from anyvisor.diagnosis.evidence import Evidence
from anyvisor.diagnosis.report import Cause, Report, report

__all__ = ["Cause", "Evidence", "Report", "collect", "report"]
