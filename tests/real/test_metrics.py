"""Metrics over OTLP, read by OpenTelemetry's own messages and compared with what Prometheus is shown."""

import json
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

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
        collector = self

        class Door(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/metrics":
                    request = ExportMetricsServiceRequest.FromString(body)
                    (resource,) = request.resource_metrics
                    collector.last[says(resource.resource, "service.instance.id")] = request
                answer = ExportMetricsServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def metric(self, instance: str, name: str):
        request = self.last.get(instance)
        found = request.resource_metrics[0].scope_metrics[0].metrics if request else []
        return next((metric for metric in found if metric.name == name), None)

    def points(self, instance: str, name: str, wanted: dict) -> list:
        metric = self.metric(instance, name)
        points = metric.histogram.data_points if metric else []
        return [point for point in points if all(says(point, key) == value for key, value in wanted.items())]

    def close(self):
        self._server.shutdown()


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
    return opener.open(asked, timeout=20).read().decode()


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
            assert [it.count for it in collector.points(instance, name, failed)] == [1]
            assert [it.count for it in collector.points(instance, name, {"gen_ai.tool.name": "other"})] == [1]
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
