"""What stands in `deploy/` for Prometheus and Grafana, against a real Prometheus that scrapes a running mesh: every
panel of every dashboard and every alert must find what it asks for."""

import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests

import control_plane
from test_up import Up, call, of_the_tour, server

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus"
DASHBOARDS = sorted((ROOT / "deploy/grafana").glob("*.json"))
PROGRAMS = Path(os.environ.get("WEFT_PROMETHEUS", "/usr/bin"))
# Rates need two looks at each series.
SCRAPE_EVERY = "1s"
# What only a few meshes have: the panel is checked, but not that there is something to see.
RARE = {
    "weft_sidecar_kept_answers_total": "a tool whose answers are kept",
    "weft_sidecar_server_healthy": "a server with a health check",
    "weft_sidecar_server_exposed": "a server that listens",
}


# Of the mesh-wide limits of the tour none is a rate.
SHARED = """
apiVersion: weft.dev/v1alpha1
kind: QuotaPolicy
metadata: { namespace: demo, name: shared }
spec:
  servers: { names: [example] }
  limits: [{ name: calls, per: [caller], rate: 1000/s, scope: mesh }]
"""


def promtool(*words: str):
    ran = subprocess.run([PROGRAMS / "promtool", *words], cwd=RULES, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


class Prometheus:
    """A Prometheus that scrapes these targets, until its block ends."""

    def __init__(self, folder: Path, targets: dict[str, list[str]]):
        self.folder = folder
        config = {
            "global": {"scrape_interval": SCRAPE_EVERY, "evaluation_interval": SCRAPE_EVERY},
            "rule_files": [str(RULES / "alerts.yml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": addresses}]} for job, addresses in targets.items()
            ],
        }
        folder.mkdir()
        (folder / "prometheus.yml").write_text(json.dumps(config))
        promtool("check", "config", str(folder / "prometheus.yml"))
        # It cannot be asked which port it got; a port that is free now is seldom taken in the next moment.
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [PROGRAMS / "prometheus", f"--config.file={folder}/prometheus.yml"]
        command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address={self.address}"]
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def ask(self, path: str, **parameters: str) -> dict:
        session = requests.Session()
        session.trust_env = False
        answer = session.get(f"http://{self.address}/api/v1/{path}", params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list:
        return self.ask("query", query=expression)["result"]

    def is_ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            is_up = requests.get(f"http://{self.address}/-/ready", timeout=10, proxies={"http": ""}).status_code == 200
        except requests.ConnectionError:
            return False
        return is_up and bool(self.query("up"))

    def __enter__(self):
        control_plane.eventually(self.is_ready, within=30)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)
        self.log.close()


def expressions_of(dashboard: Path) -> list[tuple[str, str]]:
    """What the panels ask, by their titles, with Grafana's variables filled in."""
    panels = json.loads(dashboard.read_text())["panels"]
    filled = lambda text: text.replace("$__rate_interval", "1m").replace("$server", ".+")  # noqa: E731
    return [(panel["title"], filled(target["expr"])) for panel in panels for target in panel["targets"]]


def alerts() -> dict[str, str]:
    """What each alert compares with its threshold, by its name."""
    answer = subprocess.run([PROGRAMS / "promtool", "check", "rules", RULES / "alerts.yml"], capture_output=True)
    assert answer.returncode == 0
    found = re.findall(r"alert: (\w+)\n +expr: (?:>-\n)?(.+?)\n +(?:for|labels): ", (RULES / "alerts.yml").read_text(), re.S)
    return {name: re.sub(r"\s*[<>] [0-9.]+$", "", expression) for name, expression in found}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A mesh in which some calls pass, some are refused, limited, or fail, and who watches it."""
    folder = tmp_path_factory.mktemp("watched")
    with Up(folder) as up:
        said = up.said_until("demo/example: ready")
        url = re.search(r'"url": "(.+)"', said).group(1)
        up.weft("apply", "-f", "-", stdin=of_the_tour("finer.yaml"))
        up.weft("apply", "-f", "-", stdin=SHARED)
        broken = server("broken").replace(os.environ["WEFT_BIN"], "/nowhere/to/be/found")
        up.weft("apply", "-f", "-", stdin=broken)
        up.said_until("demo/broken: failing: ")
        assert up.in_sync("demo/broken-up", "demo/example-up", "local/agent")
        sidecars = json.loads((folder / ".weft/sidecars.json").read_text())
        host = lambda text: re.search(r"http://([0-9.:]+)/", text).group(1)  # noqa: E731
        targets = {
            "weft-control-plane": [host(re.search(r"health +(\S+)", said).group(1))],
            "weft-sidecar": [host(sidecar["metrics"]) for sidecar in sidecars.values()],
        }
        with Prometheus(folder / "prometheus", targets) as prometheus:
            yield up, url, prometheus


def traffic(url: str):
    """One call of each kind."""
    call(url, "greet", {"name": "you"})
    call(url, "add", {"a": 2, "b": 3})
    call(url, "add", {"a": 2000, "b": 3})
    call(url, "count", {"to": 2})
    call(url, "delete_everything", {})
    call(url.replace("example", "broken"), "greet", {})


def test_each_alert_speaks_when_it_should_and_not_before():
    promtool("test", "rules", "alerts_test.yml")
    named = set(re.findall(r"alertname: (\w+)", (RULES / "alerts_test.yml").read_text()))
    assert named == set(alerts()), "each alert has its story"


def test_every_panel_and_every_alert_finds_what_it_asks_for(watched):
    up, url, prometheus = watched
    asked = [(f"{file.stem}: {title}", text) for file in DASHBOARDS for title, text in expressions_of(file)]
    asked += list(alerts().items())
    assert len(asked) > 60
    rare = lambda text: any(metric in text for metric in RARE)  # noqa: E731
    missing, deadline = asked, time.monotonic() + 40
    while missing and time.monotonic() < deadline:
        traffic(url)
        # An operator is somebody, too.
        up.weft("get", "mcpservers", "-A")
        missing = [(name, text) for name, text in missing if not rare(text) and not prometheus.query(text)]
    assert not missing


def test_panels_and_alerts_ask_for_nothing_that_the_reference_does_not_name():
    documents = [ROOT / "sidecar/docs/reference.md", ROOT / "control-plane/docs/metrics.md"]
    known = set(re.findall(r"`((?:weft|mcp|process)_\w+)`", "".join(file.read_text() for file in documents)))
    for file in [*DASHBOARDS, RULES / "alerts.yml"]:
        for name in re.findall(r"\b(?:weft_\w+|mcp_\w+_seconds\w*|process_\w+)", file.read_text()):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert {name, family} & known, f"{file.name} asks for {name}, which nobody exports"
    for name in RARE:
        assert name in known


def test_a_moment_of_refusals_and_failures_wakes_nobody(watched):
    _, _, prometheus = watched
    firing = [alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]
    assert not firing
