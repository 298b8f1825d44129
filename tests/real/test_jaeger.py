"""Jaeger is asked for what the mesh records: the whole of a trace, the spans of one tool, and who calls whom."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend import Jaeger
from mesh import Mesh, document
from processes import Process, eventually

HERE = Path(__file__).parent
SEARCH_SECS_MAX = 30
HOUR_MS = 3_600_000


def tags(span: dict) -> dict:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def parent(span: dict) -> str | None:
    return next((it["spanID"] for it in span["references"] if it["refType"] == "CHILD_OF"), None)


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory):
    it = Jaeger(tmp_path_factory.mktemp("jaeger"))
    yield it
    it.close()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_jaeger_shows_one_call_from_the_agent_to_the_server(jaeger, protocol, tmp_path, request):
    if request.config.getoption("--direct"):
        pytest.skip("without sidecars there is nothing to see of them")
    # Only what the agent's own trace asks for: the context decides, not the ratio.
    tracing = {"sampling": "0%", "endpoint": getattr(jaeger, protocol), "protocol": protocol}
    telemetry = document("Telemetry", "weft-system", "traces", {"tracing": tracing})
    server = Process(tmp_path / "server/log", sys.executable, HERE / "servers/traced.py", COLLECTOR=jaeger.http)
    mesh = Mesh(tmp_path / "mesh")
    name = f"traced-{protocol}"
    try:
        spec = {"workload": {"labels": {"app": name}, "port": server.ready["port"]}}
        url = mesh.reach(name, spec, telemetry, calls=[telemetry]).url
        agent = [sys.executable, HERE / "clients/traced.py", url, jaeger.http]
        done = subprocess.run(agent, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        trace = done.stdout.strip()
        chain = ["agent", "agents/agent", f"tests/{name}", "fixture"]

        def whole() -> dict | None:
            """The spans of the call of `echo`, by their service."""
            for found in jaeger.ask(f"traces/{trace}"):
                service = {key: process["serviceName"] for key, process in found["processes"].items()}
                calls = [span for span in found["spans"] if span["operationName"].endswith(" echo")]
                by_service = {service[span["processID"]]: span for span in calls}
                if all(it in by_service for it in chain[1:]):
                    return by_service | {"all": found["spans"]}
            return None

        spans = eventually(whole, SEARCH_SECS_MAX)
        outbound, inbound, served = (spans[service] for service in chain[1:])
        assert parent(served) == inbound["spanID"]
        assert parent(inbound) == outbound["spanID"]
        assert parent(outbound) in {span["spanID"] for span in spans["all"]}, "the agent's own span is above"
        kinds = [tags(span)["span.kind"] for span in (outbound, inbound)]
        assert kinds == ["client", "server"]
        for span in (outbound, inbound):
            assert tags(span)["mcp.method.name"] == "tools/call"
            assert tags(span)["gen_ai.tool.name"] == "echo"

        # A search by the name of a tool finds the call, and only calls of it.
        wanted = {"service": f"tests/{name}", "tags": json.dumps({"gen_ai.tool.name": "echo"}), "lookback": "1h"}
        found = jaeger.ask("traces", **wanted, limit=20)
        assert [it["traceID"] for it in found] == [trace]
        wanted["tags"] = json.dumps({"gen_ai.tool.name": "no_such_tool"})
        assert jaeger.ask("traces", **wanted, limit=20) == []

        # The tool that fails is an error that can be searched for.
        wanted["tags"] = json.dumps({"error": "true"})
        failed = jaeger.ask("traces", **wanted, limit=20)
        assert [it["traceID"] for it in failed] == [trace]

        # The graph of services draws the way of the call.
        now = int(time.time() * 1000)
        links = {(it["parent"], it["child"]) for it in jaeger.ask("dependencies", endTs=now, lookback=HOUR_MS)}
        assert set(zip(chain, chain[1:])) <= links, links
    finally:
        mesh.close()
        server.stop()
