"""Metrics over OTLP, read by OpenTelemetry's own messages and compared with what Prometheus is shown."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from door import Door
from mesh import Mesh, document
from processes import Process, eventually
from test_traces import says

HERE = Path(__file__).parent
SEARCH_SECS_MAX = 20
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector:
    """Takes metrics over OTLP/HTTP. `last` is the last export of each instance."""

    def __init__(self):
        self.last: dict[str, ExportMetricsServiceRequest] = {}
        self._door = Door(self._taken)
        self.url = self._door.url

    def _taken(self, path: str, body: bytes) -> ExportMetricsServiceResponse:
        if path == "/v1/metrics":
            request = ExportMetricsServiceRequest.FromString(body)
            (resource,) = request.resource_metrics
            self.last[says(resource.resource, "service.instance.id")] = request
        return ExportMetricsServiceResponse()

    def metric(self, instance: str, name: str):
        request = self.last.get(instance)
        found = request.resource_metrics[0].scope_metrics[0].metrics if request else []
        return next((metric for metric in found if metric.name == name), None)

    def points(self, instance: str, name: str, wanted: dict) -> list:
        metric = self.metric(instance, name)
        points = metric.histogram.data_points if metric else []
        return [point for point in points if all(says(point, key) == value for key, value in wanted.items())]

    def close(self):
        self._door.close()


def shown(sidecar: Process) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(f"http://{sidecar.ready['health']}/metrics", timeout=10).read().decode()


def ask(url: str, method: str, **params) -> str:
    """One request of 2026-07-28, in a trace that is recorded."""
    revision = "2026-07-28"
    meta = {
        "io.modelcontextprotocol/protocolVersion": revision,
        "io.modelcontextprotocol/clientCapabilities": {},
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": revision,
        "Mcp-Method": method,
        **({"Mcp-Name": params["name"]} if "name" in params else {}),
    }
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(url, json.dumps(message).encode(), headers)
    try:
        return opener.open(asked, timeout=20).read().decode()
    except urllib.error.HTTPError as refused:
        return refused.read().decode()


def test_what_a_collector_gets_is_what_prometheus_is_shown(tmp_path, request):
    if request.config.getoption("--direct"):
        pytest.skip("without sidecars there is nothing to see of them")
    collector = Collector()
    traced = [sys.executable, HERE / "servers/traced.py"]
    server = Process(tmp_path / "server/log", *traced, COLLECTOR=collector.url)
    mesh = Mesh(tmp_path / "mesh", metrics={"endpoint": collector.url, "protocol": "http", "every": "1s"})
    tracing = {"sampling": "100%", "endpoint": collector.url, "protocol": "http"}
    telemetry = document("Telemetry", "weft-system", "traces", {"tracing": tracing})
    try:
        spec = {"workload": {"labels": {"app": "counted"}, "port": server.ready["port"]}}
        reach = mesh.reach("counted", spec, telemetry, calls=[telemetry])
        ask(reach.url, "tools/list")
        for _ in range(3):
            ask(reach.url, "tools/call", name="echo", arguments={"text": "hello"})
        ask(reach.url, "tools/call", name="test_error_handling", arguments={})
        ask(reach.url, "tools/call", name="of_nobody", arguments={})
        sides = {
            "tests/counted": ("mcp.server.operation.duration", "mcp_server_operation_duration_seconds", reach.inbound),
            "agents/counted-agent": (
                "mcp.client.operation.duration",
                "mcp_client_operation_duration_seconds",
                reach.outbound,
            ),
        }
        for instance, (name, prometheus, sidecar) in sides.items():
            echo = {"gen_ai.tool.name": "echo", "mcp.method.name": "tools/call", "error.type": None}
            found = lambda: collector.points(instance, name, echo)  # noqa: E731
            (point,) = eventually(lambda: [it for it in found() if it.count == 3], SEARCH_SECS_MAX)
            assert sum(point.bucket_counts) == 3
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            assert 0 < point.sum < 60
            assert says(point, "gen_ai.operation.name") == "execute_tool"
            assert says(point, "weft.server") == "tests/counted"
            assert {exemplar.trace_id.hex() for exemplar in point.exemplars} == {TRACE}
            failed = {"gen_ai.tool.name": "test_error_handling", "error.type": "tool_error"}
            errors = lambda: collector.points(instance, name, failed)  # noqa: E731
            eventually(lambda: [it.count for it in errors()] == [1], SEARCH_SECS_MAX)
            other = lambda: collector.points(instance, name, {"gen_ai.tool.name": "other"})  # noqa: E731
            eventually(lambda: [it.count for it in other()] == [1], SEARCH_SECS_MAX)
            metric = collector.metric(instance, name)
            assert metric.unit == "s"
            cumulative = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
            assert metric.histogram.aggregation_temporality == cumulative
            # Both know the same metrics, by the same names but for those of calls.
            text = shown(sidecar)
            families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
            exported = collector.last[instance].resource_metrics[0].scope_metrics[0].metrics
            assert {it.name for it in exported if not it.name.startswith("mcp.")} < families
            assert prometheus in families
            assert f"{prometheus}_count" in text and "process_resident_memory_bytes" in families
    finally:
        mesh.close()
        server.stop()
        collector.close()
