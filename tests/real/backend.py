"""A backend for traces that nobody here wrote: Jaeger, from its own packages."""

import os
from pathlib import Path

import pytest
import requests

from processes import Process

JAEGER = Path(os.environ["WEFT_JAEGER"])
STARTS_MAX = 3


class Jaeger:
    """Jaeger's collector, store and query service. `grpc` and `http` take spans."""

    def __init__(self, folder: Path):
        if not JAEGER.exists():
            pytest.skip("there is no Go to build Jaeger with")
        self._process = self._start(folder)
        doors = self._process.ready
        self.grpc, self.http = (f"http://{doors[door]}" for door in ("otlpGrpc", "otlpHttp"))
        self.query = f"http://{doors['query']}"

    @staticmethod
    def _start(folder: Path) -> Process:
        for attempt in range(STARTS_MAX):
            try:
                return Process(folder / f"jaeger-{attempt}.log", JAEGER)
            except AssertionError as error:
                # It looks for ports before it takes them, and somebody may be faster.
                if "address already in use" not in str(error):
                    raise
        raise AssertionError("others took Jaeger's ports")

    def ask(self, path: str, **parameters):
        answer = requests.get(f"{self.query}/api/{path}", params=parameters, timeout=10)
        return answer.json()["data"] or [] if answer.ok else []

    def close(self):
        self._process.stop()
