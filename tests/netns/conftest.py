"""Fixtures: one pod for the whole tier, and somebody outside of it."""

import sys
from pathlib import Path

import pytest

# How processes are started and waited for, and identities, as the tier of real parts has them.
sys.path.append(str(Path(__file__).parents[1] / "real"))

from pod import Pod  # noqa: E402


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    pod = Pod(tmp_path_factory.mktemp("pod"))
    try:
        pod.start()
        yield pod
    finally:
        pod.stop()


@pytest.fixture
def pod(running):
    """Without rules."""
    running.release()
    return running


@pytest.fixture
def captured(pod):
    """With the rules for its server's port."""
    pod.capture()
    return pod
