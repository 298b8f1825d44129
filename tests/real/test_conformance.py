"""The official conformance suite finds the same at a server and at the same server behind two sidecars, check by
check, whatever it finds."""

import pytest

import suite

# Checks that end differently through the sidecars, by set, server, scenario and check, and why that is right.
DIFFERENCES: dict[tuple[str, str, str, str], str] = {}

# What each server passes when it is asked directly: fewer, and the comparison compares less.
PASSED_MIN = {
    ("python", "2025-11-25"): 84,
    ("python", "2026-07-28"): 164,
    ("typescript", "2025-11-25"): 84,
    ("typescript", "2026-07-28"): 158,
    ("everything", "2025-11-25"): 45,
}


@pytest.mark.parametrize(("server", "requirements"), PASSED_MIN)
def test_the_suite_finds_the_same_through_the_sidecars(parts, tmp_path, server, requirements):
    direct = suite.run(parts.direct(server), requirements, tmp_path / "direct")
    assert sum(status == "SUCCESS" for status in direct.values()) >= PASSED_MIN[server, requirements]

    through = suite.run(parts.through(server), requirements, tmp_path / "through")
    excused = {(scenario, check) for (*which, scenario, check) in DIFFERENCES if which == [requirements, server]}
    different = {it for it in direct.keys() | through.keys() if direct.get(it) != through.get(it)}
    for scenario, check in sorted(different - excused):
        print(f"{scenario} {check}: {direct.get((scenario, check))} directly, {through.get((scenario, check))} through")
        print(suite.why(tmp_path / "through", scenario))
    assert not different - excused
    assert not excused - different, "differences that are none any more"
