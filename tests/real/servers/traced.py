"""The server on the Python SDK, which records its own spans under the name `fixture`."""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]

import fixture
from otel import record

if __name__ == "__main__":
    record("fixture", os.environ["COLLECTOR"])
    fixture.serve_http()
