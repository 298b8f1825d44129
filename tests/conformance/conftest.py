"""Fixtures: a control plane for each test, or one for a module whose tests leave it as they found it."""

import sys
from pathlib import Path

import pytest

# Jaeger, and a door for exports, as the tier of real parts has them.
sys.path.append(str(Path(__file__).parents[1] / "real"))

from control_plane import ControlPlane  # noqa: E402
from rules import RULES  # noqa: E402


def running(directory, *flags):
    plane = ControlPlane(directory, *flags)
    plane.start()
    yield plane
    was_alive = plane.is_alive()
    plane.stop()
    print(plane.log()[-8000:])
    assert was_alive, "the control plane ended by itself"


@pytest.fixture
def plane(tmp_path):
    """A control plane of the test's own, with nothing in it."""
    yield from running(tmp_path)


@pytest.fixture(scope="module")
def shared_plane(tmp_path_factory):
    """A control plane that the tests of a module share."""
    yield from running(tmp_path_factory.mktemp("plane"))


@pytest.fixture(scope="session")
def aging(tmp_path_factory):
    """A control plane and a token of the shortest life that tokens have, made before the first test."""
    for plane in running(tmp_path_factory.mktemp("aging")):
        yield plane, plane.operator.make_token("agents", "reviewer", expiresIn="1m")


def pytest_collection_modifyitems(items):
    """Tests that wait for something to age come last, and it ages from the first test on."""
    items.sort(key=lambda item: "aging" in item.fixturenames)
    if items and "aging" in items[-1].fixturenames:
        items[0].fixturenames.insert(0, "aging")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for mark in item.iter_markers("rule"):
            report.sections.append((f"rule {mark.args[0]}", RULES[mark.args[0]]))
