"""Processes that print an object as a line of JSON when they are ready."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path

START_SECS_MAX = 30
STOP_SECS_MAX = 10


def eventually(look, within: float = 5.0):
    """The first true thing that `look` returns; looks again until time is up."""
    deadline = time.monotonic() + within
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {within} s; the last look gave {seen!r}"
        time.sleep(0.01)


class Process:
    """A process in a group of its own. `ready` is what it said when it was."""

    def __init__(self, log: Path, *command, **environment: str):
        self.log_file = log
        self._command = [str(it) for it in command]
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=log.parent,
                env=os.environ | environment,
                start_new_session=True,
            )
        self.ready = self._ready_line()

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def terminate(self):
        self._process.terminate()

    def stop(self):
        if self.is_alive():
            self._process.terminate()
            try:
                self._process.wait(STOP_SECS_MAX)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _ready_line(self) -> dict:
        lines = queue.SimpleQueue()
        threading.Thread(target=self._read, args=[lines], daemon=True).start()
        try:
            line = lines.get(timeout=START_SECS_MAX)
        except queue.Empty:
            line = b""
        if not line:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"{self._command} did not start:\n{self.log()[-4000:]}")
        return json.loads(line)

    def _read(self, lines):
        """Gives the line on, and throws the rest away so that the process never waits for a reader."""
        for line in self._process.stdout:
            if line.startswith(b"{"):
                lines.put(line)
        lines.put(b"")
