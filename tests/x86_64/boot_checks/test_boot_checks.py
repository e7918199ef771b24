"""Each boot check finds its offence, and no other does; what is nearly an offence is found by none.

Where an offence breaks several rules by nature, the cases name the one that is to come first, and then the others.
"""

import boot_cases_processor
import boot_cases_tables
import boot_cases_told
import pytest
from boot_plans import KERNELS, plan_of

from anyvisor.x86_64.boot_checks import CHECKS, check_plan

CASES = [*boot_cases_processor.CASES, *boot_cases_told.CASES, *boot_cases_tables.CASES]
IDS = [f"{check}: {what}" for check, what, *_ in CASES]


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """Sound plans by name, each made once."""
    folder, made = tmp_path_factory.mktemp("plans"), {}

    def get(name):
        if name not in made:
            made[name] = plan_of(name, folder)
        return made[name]

    return get


@pytest.mark.parametrize("name", KERNELS)
def test_sound_plans_are_passed_in_silence(name, plans):
    assert check_plan(plans(name)) == []


@pytest.mark.parametrize(("check", "what", "name", "offence", "near_miss"), CASES, ids=IDS)
def test_an_offence_is_found_and_what_is_nearly_one_is_not(check, what, name, offence, near_miss, plans):
    plan = plans(name)
    found = check_plan(offence(plan))
    first, *others = check.split(", ")
    assert {each.check for each in found} == {first, *others}, "\n".join(map(str, found))
    assert found[0].check == first
    assert all(each.problem and each.subject for each in found)
    missed = check_plan(near_miss(plan))
    assert missed == [], "\n".join(map(str, missed))


def test_every_check_has_an_offence():
    names = [each.name for each in CHECKS]
    assert len(set(names)) == len(names)
    assert set(names) == {check.split(", ")[0] for check, *_ in CASES}
