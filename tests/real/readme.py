"""A section of the README, followed as a stranger does: every command of it is run as it stands there, and what is promised
to come of it must come.

A block of commands that begins with `weft up` has a terminal of its own, the others share one. What is promised may leave
things out with `…`, within a line or as a line. All of it happens in a network of its own, where the ports that the README
names are free.
"""

import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
STEP_SECS_MAX = 60
SETTLE_SECS_MAX = 20
MARK = "──── that was it"
# What `npx -y` and `pip install` would fetch is here already, in the versions that the tests have.
NPX = """#!/usr/bin/env bash
[[ $1 != -y ]] || shift
folder=$NODE_PATH/$1
shift
exec node "$folder/$(node -p "Object.values(require('$folder/package.json').bin)[0]")" "$@"
"""
PIP = f"""#!/usr/bin/env bash
shift
exec {sys.executable} -m pip show --quiet "$@"
"""


@dataclass(frozen=True)
class Step:
    command: str
    promised: list[str]

    def is_all(self, said: str) -> bool:
        """Whether what was said is what was promised, line by line."""
        lines = [r"(?:.*\n)*?" if it == "…" else line(it) for it in self.promised]
        return not lines or re.fullmatch("".join(lines), said) is not None

    def is_within(self, said: str) -> bool:
        """Whether every line that was promised was said, in whatever order."""
        return all(re.search(f"^{line(it)}", said, re.MULTILINE) for it in self.promised if it != "…")


def line(promised: str) -> str:
    return re.escape(promised).replace("…", ".*") + r"\n"


def section(title: str) -> list[list[Step]]:
    """The steps of a section, block by block."""
    text = re.search(rf"^###? {re.escape(title)}\n(.+?)^##", README.read_text(), re.DOTALL | re.MULTILINE).group(1)
    return [steps(block) for block in re.findall(r"^```console\n(.+?)^```", text, re.DOTALL | re.MULTILINE)]


def steps(block: str) -> list[Step]:
    found, lines = [], block.splitlines()
    while lines:
        command = [lines.pop(0).removeprefix("$ ")]
        if document := re.search(r"<<'(\w+)'", command[0]):
            end = lines.index(document.group(1)) + 1
            command, lines = command + lines[:end], lines[end:]
        while is_unfinished(command):
            command.append(lines.pop(0))
        until = next((at for at, line in enumerate(lines) if line.startswith("$ ")), len(lines))
        found.append(Step("\n".join(command), lines[:until]))
        lines = lines[until:]
    return found


def is_unfinished(command: list[str]) -> bool:
    """Whether a shell would want another line."""
    return subprocess.run(["bash", "-n"], input="\n".join(command), capture_output=True, text=True).returncode != 0


class Terminal:
    """A shell, and what was said in it."""

    def __init__(self, *command: str, folder: Path, environment: dict):
        self._shell = subprocess.Popen(
            [*command, "bash", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said = ""
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._shell.stdout:
            with self._more:
                self.said += line
                self._more.notify()

    def take(self, step: Step):
        """Runs a command to its end, and sees that what it says is what was promised. It is repeated for a while until
        that is so: a mesh takes a moment to hear of what happened."""
        deadline = time.monotonic() + SETTLE_SECS_MAX
        while not step.is_all(said := self._ran(step.command)):
            assert time.monotonic() < deadline, f"{step.command}\n──── said\n{said}──── and not\n{step.promised}"

    def _ran(self, command: str) -> str:
        return self._run(f"{command}\necho '{MARK}'", lambda said: said.endswith(f"{MARK}\n")).removesuffix(f"{MARK}\n")

    def start(self, step: Step):
        """Starts what goes on, and waits until it has said what was promised."""
        self._run(step.command, step.is_within)

    def _run(self, command: str, is_enough) -> str:
        began, deadline = len(self.said), time.monotonic() + STEP_SECS_MAX
        self._shell.stdin.write(f"{command}\n")
        self._shell.stdin.flush()
        with self._more:
            while not is_enough(self.said[began:]):
                left = deadline - time.monotonic()
                assert left > 0, f"{command}\n──── said in {STEP_SECS_MAX} s\n{self.said[began:]}"
                self._more.wait(left)
            return self.said[began:]

    def close(self):
        end(self._shell)


def end(process: subprocess.Popen):
    """Ends a process with all that it started."""
    subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=False)
    process.wait(10)


class Stranger:
    """Follows sections of the README in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        tools = folder / "bin"
        tools.mkdir(parents=True)
        for name, text in (("npx", NPX), ("pip", PIP)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        weft = Path(os.environ["WEFT_BIN"]).resolve().parent
        self._environment = os.environ | {"PATH": f"{tools}:{weft}:{os.environ['PATH']}"}
        # As the superuser of its own, whoever runs this.
        is_root = os.geteuid() == 0
        self._network = subprocess.Popen(
            ["unshare", "--net", *([] if is_root else ["--map-root-user"]), "sh", "-c", "ip link set lo up; echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._network.stdout.readline() == b"\n", "no network of its own could be made"
        users = [] if is_root else ["--user", "--preserve-credentials"]
        self._enter = ["nsenter", "--net", *users, "--target", str(self._network.pid)]
        self._terminals = [self._terminal()]

    def _terminal(self) -> Terminal:
        return Terminal(*self._enter, folder=self.folder, environment=self._environment)

    def follow(self, title: str):
        for block in section(title):
            terminal, run = self._terminals[0], Terminal.take
            if block[-1].command.startswith("weft up"):
                terminal, run = self._terminal(), Terminal.start
                self._terminals.append(terminal)
            for step in block[:-1]:
                terminal.take(step)
            run(terminal, block[-1])

    def close(self):
        for terminal in reversed(self._terminals):
            terminal.close()
        end(self._network)
