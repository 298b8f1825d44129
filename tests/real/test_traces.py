"""One trace crosses code of four parts: an agent and a server on the Python SDK, both recorded by OpenTelemetry's own
SDK, and the two sidecars between them. Spans are read by OpenTelemetry's generated messages, as a collector reads them."""

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from door import Door
from mesh import Mesh, document
from processes import Process, eventually

HERE = Path(__file__).parent
SEARCH_SECS_MAX = 20


class Collector:
    """Takes spans over OTLP/HTTP. `spans` are those of each service."""

    def __init__(self):
        self.spans: list[tuple[str, Span]] = []
        self._door = Door(self._taken)
        self.url = self._door.url

    def _taken(self, path: str, body: bytes) -> ExportTraceServiceResponse:
        assert path == "/v1/traces", path
        self.take(ExportTraceServiceRequest.FromString(body))
        return ExportTraceServiceResponse()

    def take(self, request: ExportTraceServiceRequest):
        for resource in request.resource_spans:
            service = says(resource.resource, "service.name")
            self.spans.extend((service, span) for scope in resource.scope_spans for span in scope.spans)

    def find(self, trace: str, service: str, name: str) -> Span | None:
        of_trace = [(it, span) for it, span in self.spans if span.trace_id.hex() == trace]
        return next((span for it, span in of_trace if (it, span.name) == (service, name)), None)

    def close(self):
        self._door.close()


def says(of, key: str):
    """An attribute; none if there is none."""
    found = (it.value for it in of.attributes if it.key == key)
    return next((getattr(it, it.WhichOneof("value")) for it in found), None)


@pytest.fixture
def collector():
    it = Collector()
    yield it
    it.close()


def test_one_trace_crosses_agent_sidecars_and_server(collector, tmp_path, request):
    if request.config.getoption("--direct"):
        pytest.skip("without sidecars there is nothing to see of them")
    tracing = {"sampling": "0%", "endpoint": collector.url, "protocol": "http"}
    telemetry = document("Telemetry", "weft-system", "traces", {"tracing": tracing})
    traced = [sys.executable, HERE / "servers/traced.py"]
    server = Process(tmp_path / "server/log", *traced, COLLECTOR=collector.url)
    mesh = Mesh(tmp_path / "mesh")
    try:
        spec = {"workload": {"labels": {"app": "traced"}, "port": server.ready["port"]}}
        url = mesh.reach("traced", spec, telemetry, calls=[telemetry]).url
        agent = [sys.executable, HERE / "clients/traced.py", url, collector.url]
        done = subprocess.run(agent, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        trace = done.stdout.strip()
        services = ("agents/agent", "tests/traced", "fixture")
        for tool in ("echo", "test_error_handling"):
            look = [(service, f"tools/call {tool}") for service in services]
            eventually(lambda: all(collector.find(trace, *it) for it in look), SEARCH_SECS_MAX)
            outbound, inbound, served = (collector.find(trace, *it) for it in look)
            ours = {span.span_id for service, span in collector.spans if service == "agent"}
            assert outbound.parent_span_id in ours
            assert inbound.parent_span_id == outbound.span_id
            assert served.parent_span_id == inbound.span_id, "the server's own span hangs below its sidecar's"
            assert (outbound.kind, inbound.kind) == (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)
            for span in (outbound, inbound):
                assert says(span, "gen_ai.tool.name") == tool
                failed = tool == "test_error_handling"
                assert says(span, "error.type") == ("tool_error" if failed else None)
                assert (span.status.code == Status.STATUS_CODE_ERROR) == failed
            # What both sides say by the same conventions is the same.
            for key in ("mcp.method.name", "mcp.protocol.version", "gen_ai.operation.name"):
                theirs = says(served, key)
                assert theirs is None or theirs == says(inbound, key), key
    finally:
        mesh.close()
        server.stop()
