"""Fixtures: one cluster for the whole tier, in which each test has namespaces of its own."""

import itertools
import sys
from pathlib import Path

import pytest

# How processes are started and waited for, as the tier of real parts has it.
sys.path.append(str(Path(__file__).parents[1] / "real"))

from cluster import Cluster  # noqa: E402

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A real API server with its controllers, that knows our kinds."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        cluster.defines()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def namespace(cluster):
    """A namespace of the test's own, that asks for nothing."""
    return cluster.namespace(f"test-{next(NUMBERS)}")
