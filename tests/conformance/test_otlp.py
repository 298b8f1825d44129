"""`weft audit export --format otlp` to collectors made of OpenTelemetry's own messages and gRPC's own server. The messages
are those that come with Envoy's, of an older version, in which some fields have other names and all the same numbers."""

import json
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service

from door import Door
from test_syslog import recorded, trail  # noqa: F401


class Kept:
    """What a collector was sent. It takes so many exports, and then says that it cannot."""

    def __init__(self, takes: int = 1000):
        self.requests: list[service.ExportLogsServiceRequest] = []
        self.takes = takes

    def take(self, request: service.ExportLogsServiceRequest) -> bool:
        if len(self.requests) >= self.takes:
            return False
        self.requests.append(request)
        return True

    def records(self) -> list[tuple[str, dict]]:
        """Each record's node and line, in order."""
        found = []
        for request in self.requests:
            for of in request.resource_logs:
                (node,) = (it.value.string_value for it in of.resource.attributes if it.key == "service.instance.id")
                for scope in of.instrumentation_library_logs:
                    found += [(node, json.loads(record.body.string_value)) for record in scope.logs]
        return found


class OverGrpc(Kept):
    protocol = "grpc"

    def export(self, request, context):
        if not self.take(request):
            context.abort(grpc.StatusCode.UNAVAILABLE, "full")
        return service.ExportLogsServiceResponse()

    def __enter__(self):
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        export = grpc.unary_unary_rpc_method_handler(
            self.export,
            request_deserializer=service.ExportLogsServiceRequest.FromString,
            response_serializer=service.ExportLogsServiceResponse.SerializeToString,
        )
        name = "opentelemetry.proto.collector.logs.v1.LogsService"
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {"Export": export})])
        self.url = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(None)


class OverHttp(Kept):
    protocol = "http"

    def __enter__(self):
        self._door = Door(self._taken)
        self.url = self._door.url
        return self

    def _taken(self, path: str, body: bytes) -> service.ExportLogsServiceResponse | None:
        assert path == "/v1/logs"
        taken = self.take(service.ExportLogsServiceRequest.FromString(body))
        return service.ExportLogsServiceResponse() if taken else None

    def __exit__(self, *_):
        self._door.close()


@pytest.mark.parametrize("collector", [OverGrpc, OverHttp])
def test_a_collector_gets_what_the_trail_says_in_order(recorded, collector):  # noqa: F811
    before = trail(recorded)
    with collector() as kept:
        to = ["--to", kept.url, "--protocol", kept.protocol]
        recorded.weft("audit", "export", "--format", "otlp", *to, "--limit", str(len(before)))
        assert kept.records() == [(record["node"], record["line"]) for record in before]
        # It goes on where another ended.
        middle = before[len(before) // 2]
        kept.requests.clear()
        recorded.weft("audit", "export", *to, "--after", str(middle["place"]), "--until", before[-1]["line"]["at"])
        rest = [(it["node"], it["line"]) for it in before if it["place"] > middle["place"]]
        assert [it for it in kept.records() if it in rest] == kept.records()


@pytest.mark.parametrize("collector", [OverGrpc, OverHttp])
def test_what_a_collector_does_not_take_is_told(recorded, collector):  # noqa: F811
    with collector(takes=0) as kept:
        with pytest.raises(AssertionError, match="0 records were written"):
            recorded.weft("audit", "export", "--to", kept.url, "--protocol", kept.protocol)
        assert not kept.requests
