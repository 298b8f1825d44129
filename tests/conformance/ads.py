"""A sidecar on the ADS stream that says exactly what a test tells it to say, in the messages that Google publishes.

Whatever it hears is held against the rules that every response keeps, in every test.
"""

import itertools
import queue
import threading
from dataclasses import dataclass

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.rpc import status_pb2
from weft.config.v1 import config_pb2

from identity import Identity, join

# In the order in which a client hears of them.
TYPES = [
    "Mesh",
    "TrustBundle",
    "AccessPolicy",
    "QuotaPolicy",
    "ToolPolicy",
    "Authentication",
    "Telemetry",
    "Server",
    "Endpoints",
    "Route",
    "VirtualServer",
]
PREFIX = "type.googleapis.com/weft.config.v1."
# Room for a debug build on a busy machine; nothing waits this long unless it fails.
HEAR_SECS = 8

_fences = itertools.count(1)
_instances = itertools.count(1)


@dataclass(frozen=True)
class Ended:
    """How a stream ended."""

    code: grpc.StatusCode
    details: str


@dataclass
class Message:
    """A response, taken apart."""

    type: str
    nonce: str
    resources: dict[str, discovery_pb2.Resource]
    removed: set[str]
    errors: dict[str, status_pb2.Status]

    @classmethod
    def read(cls, response: discovery_pb2.DeltaDiscoveryResponse) -> "Message":
        assert response.nonce, "every response has a nonce"
        names = [it.name for it in response.resources]
        assert len(names) == len(set(names)), f"a name twice in one response: {sorted(names)}"
        removed = list(response.removed_resources)
        assert len(removed) == len(set(removed)), f"a name removed twice in one response: {sorted(removed)}"
        assert not set(names) & set(removed), (
            f"sent and removed in one response: {sorted(set(names) & set(removed))}"
        )
        for resource in response.resources:
            assert resource.version, f"{resource.name} has no version"
            assert resource.resource.type_url == response.type_url, f"{resource.name} is of another type"
        return cls(
            type=response.type_url.removeprefix(PREFIX),
            nonce=response.nonce,
            resources={it.name: it for it in response.resources},
            removed=set(removed),
            errors={it.resource_name.name: it.error_detail for it in response.resource_errors},
        )

    @property
    def names(self) -> set[str]:
        return set(self.resources)

    def says_something(self) -> bool:
        return bool(self.resources or self.removed or self.errors)

    def version(self, name: str) -> str:
        return self.resources[name].version

    def body(self, name: str):
        """The resource itself, as Weft's message."""
        message = getattr(config_pb2, self.type)()
        assert self.resources[name].resource.Unpack(message)
        return message

    def add(self, other: "Message"):
        """Takes in what a later response of the same type says."""
        assert self.type == other.type
        for name in other.removed:
            self.resources.pop(name, None)
        self.removed = (self.removed - other.names) | other.removed
        self.resources |= other.resources
        self.errors |= other.errors
        self.nonce = other.nonce

    def forget(self, name: str):
        self.removed.discard(name)
        self.errors.pop(name, None)

    def __str__(self):
        return f"{self.type}: sent {sorted(self.names)}, removed {sorted(self.removed)}, errors {sorted(self.errors)}"


@dataclass
class Sidecar:
    """A workload with an identity and what it says of itself."""

    plane: object
    identity: Identity
    node: base_pb2.Node

    @property
    def id(self) -> str:
        return self.node.id

    def open(self, channel: grpc.Channel | None = None, **how) -> "Stream":
        return Stream(channel or self.plane.channel(self.identity), self.node, **how)


def sidecar(
    plane,
    namespace: str,
    *,
    account: str = "default",
    instance: str | None = None,
    servers=(),
    labels=None,
    stances=("inbound",),
    identity: Identity | None = None,
    features=(),
) -> Sidecar:
    number = next(_instances)
    node = base_pb2.Node(id=f"{namespace}/{instance or f'i{number}'}", client_features=features)
    node.metadata.update(
        {
            "labels": labels or {},
            "servers": list(servers),
            "stances": list(stances),
            "address": f"10.0.{number // 250}.{number % 250 + 1}:7443",
            "version": "1.0.0",
        }
    )
    return Sidecar(plane, identity or join(plane, namespace, account), node)


class Stream:
    """One delta ADS stream."""

    def __init__(self, channel: grpc.Channel, node: base_pb2.Node | None, *, reads: bool = True):
        self.node = node
        # What the client holds, by type and name: for the next stream's `initial_resource_versions`.
        self.held: dict[str, dict[str, str]] = {}
        self._says_node = node is not None
        self._used: list[str] = []
        self._nonces: set[str] = set()
        self._requests, self._responses = queue.SimpleQueue(), queue.SimpleQueue()
        self._reads = threading.Event()
        if reads:
            self._reads.set()
        stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        self._call = stub.DeltaAggregatedResources(iter(self._requests.get, None))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        self._reads.wait()
        try:
            for response in self._call:
                self._responses.put(response)
            self._responses.put(Ended(grpc.StatusCode.OK, ""))
        except grpc.RpcError as error:
            self._responses.put(Ended(error.code(), error.details()))

    # Saying

    def send(
        self,
        type_name: str,
        *,
        subscribe=(),
        unsubscribe=(),
        held=None,
        nonce="",
        error: str | None = None,
        node=None,
    ):
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=type_name if "/" in type_name else PREFIX + type_name,
            resource_names_subscribe=subscribe,
            resource_names_unsubscribe=unsubscribe,
            initial_resource_versions=held or {},
            response_nonce=nonce,
        )
        if error is not None:
            request.error_detail.SetInParent()
            request.error_detail.code = 3 if error else 0
            request.error_detail.message = error
        self.send_raw(request, node)

    def send_raw(self, request: discovery_pb2.DeltaDiscoveryRequest, node=None):
        if self._says_node or node:
            request.node.CopyFrom(node or self.node)
            self._says_node = False
        type_name = request.type_url.removeprefix(PREFIX)
        if type_name in TYPES and type_name not in self._used:
            self._used.append(type_name)
        self._requests.put(request)

    def ack(self, message: Message, **more):
        versions = self.held.setdefault(message.type, {})
        versions.update({name: it.version for name, it in message.resources.items()})
        for name in message.removed:
            versions.pop(name, None)
        self.send(message.type, nonce=message.nonce, **more)

    def nack(self, message: Message, error: str, **more):
        self.send(message.type, nonce=message.nonce, error=error, **more)

    def close(self):
        self._requests.put(None)
        self._call.cancel()

    # Hearing

    def start_reading(self):
        self._reads.set()

    def _next(self, within: float):
        try:
            return self._responses.get(timeout=within)
        except queue.Empty:
            raise AssertionError(f"heard nothing within {within} s") from None

    def hear_or_end(self, within: float = HEAR_SECS) -> Message | Ended:
        response = self._next(within)
        if isinstance(response, Ended):
            return response
        message = Message.read(response)
        assert message.nonce not in self._nonces, f"the nonce {message.nonce} was used before"
        self._nonces.add(message.nonce)
        return message

    def hear(self, within: float = HEAR_SECS) -> Message:
        """The next response, not yet acknowledged."""
        message = self.hear_or_end(within)
        assert not isinstance(message, Ended), f"the stream ended: {message}"
        return message

    def expect(
        self, type_name: str, names=(), removed=(), *, ack: bool = True, within: float = HEAR_SECS
    ) -> Message:
        """Hears responses of one type until exactly these names were sent and removed, in however many pieces. Names
        may be none, then it is one response that says nothing."""
        names, removed = set(names), set(removed)
        whole = None
        while whole is None or not (names <= whole.names and removed <= whole.removed):
            message = self.hear(within)
            wanted = f"wanted {type_name}: sent {sorted(names)}, removed {sorted(removed)}"
            assert message.type == type_name, f"{wanted}; heard {message}"
            assert message.names <= names and message.removed <= removed, f"{wanted}; heard {message}"
            whole.add(message) if whole else (whole := message)
            if ack:
                self.ack(message)
        return whole

    def subscribe(self, type_name: str, names=(), removed=(), *, to=("*",), **how) -> Message:
        """Subscribes and hears the answer."""
        self.send(type_name, subscribe=to)
        return self.expect(type_name, names, removed, **how)

    def fence(self, *types: str) -> list[Message]:
        """Asks for names that nobody has, of these types or of all types used so far, and returns what was heard before
        the answers. Such a name must be answered at once, and responses of one type keep their order: whatever the
        server had to say has been said."""
        waiting = {}
        strays = []
        for type_name in types or list(self._used):
            waiting[type_name] = f"{self.node.id.split('/')[0]}/fence-{next(_fences)}"
            self.send(type_name, subscribe=[waiting[type_name]])
        while waiting:
            message = self.hear()
            self.ack(message)
            if waiting.get(message.type) in message.removed:
                message.forget(waiting.pop(message.type))
            if message.says_something():
                strays.append(message)
        return strays

    def expect_nothing(self, *types: str):
        strays = self.fence(*types)
        assert not strays, "; ".join(map(str, strays))

    def ended(self, within: float = HEAR_SECS) -> Ended:
        """Waits for the stream's end; what is heard before does not matter."""
        while True:
            heard = self._next(within)
            if isinstance(heard, Ended):
                return heard

    def expect_refused(self, code: grpc.StatusCode) -> str:
        ended = self.ended()
        assert ended.code == code, ended
        assert ended.details, "a refusal says why"
        return ended.details
