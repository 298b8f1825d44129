"""`weft audit export` to a syslog daemon that nobody here wrote: is what rsyslog wrote what the trail says?"""

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

import control_plane
from test_up import Up, call

FOLDER = Path(os.environ.get("WEFT_RSYSLOG", "/"))
MARKED = """
apiVersion: weft.dev/v1alpha1
kind: AccessPolicy
metadata: { namespace: demo, name: marked }
spec:
  servers: { names: [example] }
  rules: [{ action: audit, to: [{ tools: ["*"] }] }]
---
apiVersion: weft.dev/v1alpha1
kind: Telemetry
metadata: { namespace: demo, name: whole }
spec: { audit: full }
"""
# Parts of each message as rsyslog understood them; the text last, as it came.
TEMPLATE = "%pri% %timestamp:::date-rfc3339% %hostname% %app-name% %procid% %msgid% %structured-data% %msg%\\n"


class Rsyslog:
    """An rsyslog that takes messages over TCP, UDP and a unix socket and writes them to a file, until its block ends."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.file, self.socket = folder / "messages", folder / "log.sock"
        # It cannot be asked which port it got; a port that is free now is seldom taken in the next moment.
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        libraries = FOLDER / "usr/lib/x86_64-linux-gnu"
        (folder / "rsyslog.conf").write_text(
            f"""
global(maxMessageSize="64k" workDirectory="{folder}" parser.escapeControlCharactersOnReceive="off")
module(load="imptcp") module(load="imudp") module(load="imuxsock" sysSock.use="off")
input(type="imptcp" address="127.0.0.1" port="{self.port}")
input(type="imudp" address="127.0.0.1" port="{self.port}")
input(type="imuxsock" socket="{self.socket}" useSpecialParser="off" parseHostname="on")
template(name="parts" type="string" string="{TEMPLATE}")
action(type="omfile" file="{self.file}" template="parts")
"""
        )
        command = [FOLDER / "usr/sbin/rsyslogd", "-n", "-f", folder / "rsyslog.conf", "-i", "NONE"]
        command += ["-M", libraries / "rsyslog"]
        self.log = (folder / "log").open("wb")
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)

    def listens(self) -> bool:
        assert self.process.poll() is None, Path(self.log.name).read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return self.socket.exists()

    def messages(self) -> list[str]:
        text = self.file.read_text() if self.file.exists() else ""
        return text.split("\n")[:-1]

    def __enter__(self):
        control_plane.eventually(self.listens, within=20)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)
        self.log.close()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A mesh whose trail has calls of every outcome, with texts that syslog could trip over."""
    folder = tmp_path_factory.mktemp("recorded")
    with Up(folder) as up:
        url = re.search(r'"url": "(.+)"', up.said_until("demo/example: ready")).group(1)
        up.weft("apply", "-f", "-", stdin=MARKED)
        assert up.in_sync("demo/example-up", "local/agent")
        for name in ["you", 'a "quoted" \\ name', "two\nlines\tand \u2028 more", "<13>1 - evil - - - -", "ü\u0000ß", "x" * 4000]:
            assert call(url, "greet", {"name": name}).status_code == 200
        assert call(url, "delete_everything", {}).status_code == 403
        control_plane.eventually(lambda: len(trail(up)) >= 14, within=30)
        yield up


def trail(up: Up) -> list[dict]:
    return [json.loads(line) for line in up.weft("audit", "export").split("\n") if line]


@pytest.mark.parametrize("way", ["tcp", "udp", "unix"])
def test_rsyslog_writes_what_the_trail_says(recorded, tmp_path, way):
    with Rsyslog(tmp_path / "rsyslog") as rsyslog:
        # What is written while it is exported is of a later moment.
        before = trail(recorded)
        to = f"unix:{rsyslog.socket}" if way == "unix" else f"{way}://127.0.0.1:{rsyslog.port}"
        recorded.weft("audit", "export", "--to", to, "--limit", str(len(before)))
        control_plane.eventually(lambda: len(rsyslog.messages()) >= len(before), within=20)
        messages = rsyslog.messages()
    assert len(messages) == len(before)
    found = {}
    for message in messages:
        priority, at, host, app, process, kind, data, text = message.split(" ", 7)
        assert (app, process, data) == ("weft", "-", "-")
        assert 13 * 8 <= int(priority) < 14 * 8, "facility: log audit"
        said = json.loads(text.removeprefix("\ufeff"))
        found[host, said["n"]] = (kind, said)
    for record in before:
        kind, said = found[record["node"], record["line"]["n"]]
        assert said == record["line"]
        assert kind in said["is"] or kind == "trail"
    outcomes = {said["is"]["call"]["outcome"] for _, said in found.values() if "call" in said["is"]}
    assert outcomes >= {"done", "refused"}
