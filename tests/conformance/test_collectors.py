"""Sidecars send spans and metrics over TLS to collectors made of gRPC's own server and of OpenSSL, whose certificates an
authority of one's own has signed."""

import os
import ssl
from concurrent import futures
from pathlib import Path

import grpc
import pytest
import requests
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace

from control_plane import eventually
from door import Door
from mesh import Mesh, document, openssl
from test_up import call

SEARCH_SECS_MAX = 20
# A trace that is recorded, so that it is looked for by its name.
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


class Authority:
    """Files of an authority of one's own, and of a certificate for `localhost` that it signed."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.roots, self.certificate, self.key = (folder / name for name in ("roots.pem", "leaf.pem", "leaf.key"))
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        key = folder / "roots.key"
        openssl("req", "-x509", *new, "-subj", "/CN=somebody", "-keyout", key, "-out", self.roots)
        leaf = ("-CA", self.roots, "-CAkey", key, "-subj", "/CN=collector")
        says = ("subjectAltName=DNS:localhost", "basicConstraints=critical,CA:FALSE")
        extensions = [word for extension in says for word in ("-addext", extension)]
        openssl("req", "-x509", *new, *leaf, *extensions, "-keyout", self.key, "-out", self.certificate)


class Kept:
    """What a collector was sent: names of spans of the trace, and of metrics."""

    def __init__(self, authority: Authority):
        self.authority = authority
        self.spans: set[str] = set()
        self.metrics: set[str] = set()

    def take(self, request):
        if isinstance(request, trace.ExportTraceServiceRequest):
            for resource in request.resource_spans:
                for scope in resource.instrumentation_library_spans:
                    self.spans |= {span.name for span in scope.spans if span.trace_id.hex() == TRACE}
            return trace.ExportTraceServiceResponse()
        for resource in request.resource_metrics:
            for scope in resource.instrumentation_library_metrics:
                self.metrics |= {metric.name for metric in scope.metrics}
        return metrics.ExportMetricsServiceResponse()


class OverGrpc(Kept):
    protocol = "grpc"

    def __enter__(self):
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        services = {
            "trace.v1.TraceService": trace.ExportTraceServiceRequest,
            "metrics.v1.MetricsService": metrics.ExportMetricsServiceRequest,
        }
        for name, request in services.items():
            export = grpc.unary_unary_rpc_method_handler(
                lambda request, _: self.take(request),
                request_deserializer=request.FromString,
                response_serializer=lambda response: response.SerializeToString(),
            )
            service = f"opentelemetry.proto.collector.{name}"
            self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": export})])
        pair = (self.authority.key.read_bytes(), self.authority.certificate.read_bytes())
        port = self.server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self.url = f"https://localhost:{port}"
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(None)


class OverHttp(Kept):
    protocol = "http"

    def __enter__(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.certificate, self.authority.key)
        self._door = Door(self._taken, context)
        self.url = self._door.url
        return self

    def _taken(self, path: str, body: bytes):
        requests = {"/v1/traces": trace.ExportTraceServiceRequest, "/v1/metrics": metrics.ExportMetricsServiceRequest}
        return self.take(requests[path].FromString(body))

    def __exit__(self, *_):
        self._door.close()


def mesh_of(folder: Path, collector: Kept, roots: Path) -> tuple[Mesh, str, list[str]]:
    """A mesh that sends all that it records to a collector; with the URL of a server, and where each sidecar shows its
    metrics."""
    to = {"endpoint": collector.url, "protocol": collector.protocol}
    mesh = Mesh(folder, metrics={**to, "every": "1s"}, SSL_CERT_FILE=str(roots))
    telemetry = document("Telemetry", "weft-system", "traces", {"tracing": {**to, "sampling": "0%"}})
    spec = {"stdio": {"command": os.environ["WEFT_BIN"], "args": ["example-server"]}}
    reach = mesh.reach("greeter", spec, telemetry, calls=[telemetry])
    return mesh, reach.url, [f"http://{it.ready['health']}/metrics" for it in (reach.inbound, reach.outbound)]


def greeted(url: str) -> bool:
    answer = call(url, "greet", {"name": "you"}, PARENT)
    return answer.status_code == 200 and "Hello, you!" in answer.text


@pytest.mark.parametrize("over", [OverGrpc, OverHttp])
def test_spans_and_metrics_reach_a_collector_behind_a_certificate_of_ones_own_authority(over, tmp_path):
    authority = Authority(tmp_path / "authority")
    with over(authority) as kept:
        mesh, url, _ = mesh_of(tmp_path / "mesh", kept, authority.roots)
        try:
            assert greeted(url)
            eventually(lambda: "tools/call greet" in kept.spans, SEARCH_SECS_MAX)
            durations = {f"mcp.{side}.operation.duration" for side in ("server", "client")}
            eventually(lambda: durations <= kept.metrics, SEARCH_SECS_MAX)
        finally:
            mesh.close()


@pytest.mark.parametrize("over", [OverGrpc, OverHttp])
def test_a_collector_with_a_certificate_of_somebody_else_is_sent_nothing(over, tmp_path):
    with over(Authority(tmp_path / "theirs")) as kept:
        mesh, url, shown = mesh_of(tmp_path / "mesh", kept, Authority(tmp_path / "ours").roots)
        try:
            assert greeted(url)
            session = requests.Session()
            session.trust_env = False
            dropped = r'weft_sidecar_spans_dropped_total{reason="not_taken"}'
            for metrics_at in shown:
                eventually(lambda: dropped in session.get(metrics_at, timeout=10).text, SEARCH_SECS_MAX)
            assert not kept.spans and not kept.metrics
        finally:
            mesh.close()
