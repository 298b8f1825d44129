"""What comes in at a sidecar that no honest client sends. Written from the specification and the table of refusals;
what the sidecar is made of is not known here.

Of everything that is refused, nothing reaches the server. Each request has a mark of its own in its body by which the
server would know it.
"""

import base64
import itertools
import json
import ssl
from dataclasses import dataclass

import pytest

from mesh import AGENT, Authority, NAMESPACE
from processes import eventually
from servers.recorder import Recorder
from wire import (
    CAPABILITIES_KEY,
    LEGACY,
    MODERN,
    VERSION_KEY,
    Answer,
    Wire,
    legacy_call,
    legacy_headers,
    meta,
    modern_call,
    modern_headers,
    request,
)

MARKS = (f"mark-{number:04}" for number in itertools.count())
BODY_BYTES_MAX = 4 << 20
CALLER = "spiffe://mesh.test/ns/{}/sa/{}"

MALFORMED = (400, -32700, "malformed")
INVALID = (400, -32600, "invalid")
HEADER_MISMATCH = (400, -32020, "header_mismatch")
BAD_META = (400, -32602, "bad_meta")
UNSUPPORTED = (400, -32022, "unsupported_version")
NO_METHOD = (404, -32601, "method_not_found")
BODY_TOO_LARGE = (413, 4130, "body_too_large")
HEAD_TOO_LARGE = (431, 4310, "head_too_large")
HTTP_METHOD = (405, 4050, "http_method")
MEDIA_TYPE = (415, 4150, "media_type")
NO_SUCH_PATH = (404, 4040, "no_such_path")
FOREIGN_HOST = (403, 4031, "foreign_host")
FOREIGN_ORIGIN = (403, 4032, "foreign_origin")
UNKNOWN_SERVER = (404, 4041, "unknown_server")
SESSION_UNKNOWN = (404, 4042, "session_unknown")


@dataclass
class Door:
    """A recorder behind two sidecars."""

    recorder: Recorder
    authority: Authority
    inbound: str
    outbound: str

    def context(self, namespace: str, account: str, authority: Authority | None = None) -> ssl.SSLContext:
        """TLS as this identity."""
        return (authority or self.authority).context(namespace, account)

    def enter(self, namespace: str = AGENT[0], account: str = AGENT[1]) -> Wire:
        """A connection to the sidecar beside the server."""
        return Wire(self.inbound, self.context(namespace, account))

    def enter_as_agent(self) -> Wire:
        """A connection to the sidecar beside the agent."""
        return Wire(self.outbound)


@pytest.fixture(scope="module")
def door(parts):
    if parts.is_direct:
        pytest.skip("there is no sidecar")
    recorder = Recorder()
    reach = parts.mesh.reach("recorder", {"workload": {"labels": {"app": "recorder"}, "port": recorder.port}})
    yield Door(
        recorder, parts.mesh.authority, reach.inbound.ready["inbound"], reach.outbound.ready["outbound"]
    )
    recorder.close()


@pytest.fixture
def mark():
    return next(MARKS)


def told(answer: Answer) -> tuple:
    """Status, code and reason of a refusal."""
    return answer.status, answer.json["error"]["code"], answer.reason


def serves(wire: Wire) -> bool:
    """Whether the connection still does what it is there for."""
    answer = wire.ask(request(modern_call(next(MARKS)), modern_headers()))
    return answer.status == 200 and answer.json["result"]["content"][0]["text"] == "heard"


def refuses(door: Door, data: bytes, expected: tuple, mark: str):
    """Sees that the request is refused like this, never reaches the server, and does not harm the connection."""
    with door.enter() as wire:
        assert told(wire.ask(data)) == expected
        assert serves(wire)
    assert not door.recorder.saw(mark)


# The body.

NOT_JSON = {
    "nothing": b"",
    "half a message": b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo"',
    "a message and more": b'{"jsonrpc":"2.0","id":7,"method":"tools/list"} {}',
    "a byte order mark": b'\xef\xbb\xbf{"jsonrpc":"2.0","id":7,"method":"tools/list"}',
    "not a number": b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"a":NaN}}',
    "a single quote": b"{'jsonrpc':'2.0','id':7,'method':'tools/list'}",
    "a trailing comma": b'{"jsonrpc":"2.0","id":7,"method":"tools/list",}',
    "a comment": b'{"jsonrpc":"2.0","id":7,/* */"method":"tools/list"}',
    "a leading zero": b'{"jsonrpc":"2.0","id":07,"method":"tools/list"}',
    "a raw NUL in a text": b'{"jsonrpc":"2.0","id":7,"method":"tools\x00/list"}',
    "bytes that are no UTF-8": b'{"jsonrpc":"2.0","id":7,"method":"tools/\xff"}',
    "UTF-8 longer than it may be": b'{"jsonrpc":"2.0","id":7,"method":"tools\xc0\xaflist"}',
    "half of a surrogate pair": b'{"jsonrpc":"2.0","id":7,"method":"\\ud800"}',
    "nesting without end": b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":' + b'{"a":' * 100_000,
    "lists without end": b"[" * 100_000,
}

NO_MESSAGE = {
    "a number": b"7",
    "a text": b'"tools/list"',
    "null": b"null",
    "an empty object": b"{}",
    "another JSON-RPC": b'{"jsonrpc":"1.0","id":7,"method":"tools/list"}',
    "no JSON-RPC": b'{"id":7,"method":"tools/list"}',
    "a method that is no text": b'{"jsonrpc":"2.0","id":7,"method":5}',
    "an id that is null": b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}',
    "an id that is an object": b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}',
    "an id that is a fraction": b'{"jsonrpc":"2.0","id":7.5,"method":"tools/list"}',
    "an id that is true": b'{"jsonrpc":"2.0","id":true,"method":"tools/list"}',
    "a result and an error": b'{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":""}}',
    "an empty batch": b"[]",
    "a batch": b'[{"jsonrpc":"2.0","id":7,"method":"tools/list"}]',
    "a batch of a million": b"[" + b"1," * 999_999 + b"1]",
}

of_both_eras = pytest.mark.parametrize("headers", [modern_headers(), legacy_headers()], ids=["modern", "legacy"])


@of_both_eras
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_no_json_is_malformed(door, mark, body, headers):
    refuses(door, request(body, headers), MALFORMED, mark)


@of_both_eras
@pytest.mark.parametrize("body", NO_MESSAGE.values(), ids=NO_MESSAGE)
def test_json_that_is_no_message_is_invalid(door, mark, body, headers):
    refuses(door, request(body, headers), INVALID, mark)


@of_both_eras
@pytest.mark.parametrize("params", ["[]", '["echo"]', '"echo"', "7", "null"])
def test_parameters_that_are_no_object_are_refused(door, mark, params, headers):
    body = f'{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{params}}}'
    with door.enter() as wire:
        answer = wire.ask(request(body.encode(), headers))
        assert answer.status == 400
        assert answer.json["error"]["code"] in (INVALID[1], BAD_META[1])
        assert serves(wire)


@of_both_eras
@pytest.mark.parametrize(
    "twice",
    [
        '"method":"tools/list","method":"tools/call","params":{P}',
        '"method":"tools/call","m\\u0065thod":"tools/list","params":{P}',
        '"method":"tools/call","params":{P},"params":{P}',
        '"method":"tools/call","id":8,"params":{P}',
        '"method":"tools/call","params":{"name":"other",N}',
        '"method":"tools/call","params":{N,"n\\u0061me":"other"}',
        '"method":"tools/call","params":{N,"_meta":{}}',
        '"method":"tools/call","params":{N,"arguments":{}}',
    ],
    ids=["method", "method escaped", "params", "id", "name", "name escaped", "_meta", "arguments"],
)
def test_a_key_that_is_there_twice_is_refused(door, mark, twice, headers):
    params = json.dumps(modern_call(mark)["params"])
    body = '{"jsonrpc":"2.0","id":7,' + twice.replace("{P}", params).replace("N", params[1:-1]) + "}"
    refuses(door, request(body.encode(), headers), MALFORMED, mark)


def test_what_is_judged_is_what_is_forwarded_byte_for_byte(door, mark):
    params = json.dumps(modern_call(mark)["params"])[:-1]
    odd = ' ,\t"n" : 1e400, "big":123456789012345678901234567890, "\\u0062":"\\/", "x":[1.0,-0,1E+2] }'
    body = f'{{ "params":{params}{odd},\r\n"method" : "tools\\/call","id":7,"jsonrpc":"2.0"}}\n'.encode()
    with door.enter() as wire:
        assert wire.ask(request(body, modern_headers())).status == 200
    assert [it.body for it in door.recorder.saw(mark)] == [body]


def test_a_body_that_is_announced_as_too_large_is_refused_before_it_comes(door, mark):
    with door.enter() as wire:
        head = request(None, [*modern_headers(), ("content-length", str(100 << 20))])
        assert told(wire.ask(head)) == BODY_TOO_LARGE
        assert wire.is_closed()


def test_a_body_that_grows_too_large_is_refused(door, mark):
    with door.enter() as wire:
        head = request(None, [*modern_headers(), ("transfer-encoding", "chunked")])
        piece = b" " * (1 << 16)
        pieces = (BODY_BYTES_MAX >> 16) + 1
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for _ in range(pieces))
        assert told(wire.ask(head + body)) == BODY_TOO_LARGE


def test_no_body_is_asked_for_that_would_be_refused(door, mark):
    with door.enter() as wire:
        more = [("content-length", str(BODY_BYTES_MAX + 1)), ("expect", "100-continue")]
        assert told(wire.ask(request(None, [*modern_headers(), *more]))) == BODY_TOO_LARGE


def test_a_body_that_breaks_off_reaches_no_server(door, mark):
    body = json.dumps(modern_call(mark)).encode()
    with door.enter() as wire:
        wire.send(request(body, [*modern_headers(), ("content-length", str(len(body) + 1))], length=False))
    with door.enter() as wire:
        assert serves(wire)
    assert not door.recorder.saw(mark)


def test_a_body_in_pieces_is_read_whole(door, mark):
    body = json.dumps(modern_call(mark)).encode()
    with door.enter() as wire:
        head = request(None, [*modern_headers(), ("transfer-encoding", "chunked")])
        chunks = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body) + b"0\r\nx-trailer: 1\r\n\r\n"
        assert wire.ask(head + chunks).status == 200
        assert serves(wire)
    assert json.loads(door.recorder.saw(mark)[0].body) == json.loads(body)


# The headers against the body.


def sentinel(name: bytes) -> str:
    return f"=?base64?{base64.b64encode(name).decode()}?="


@pytest.mark.parametrize(
    "changed",
    [
        {"mcp_method": None},
        {"mcp_method": "tools/list"},
        {"mcp_method": "Tools/Call"},
        {"mcp_method": ""},
        {"mcp_name": None},
        {"mcp_name": "other"},
        {"mcp_name": "Echo"},
        {"mcp_name": "echo, other"},
        {"mcp_name": sentinel(b"other")},
        {"mcp_name": "=?base64?ZWNobw?="},
        {"mcp_name": "=?base64?!!!!?="},
        {"mcp_name": sentinel(b"\xff")},
        {"mcp_name": "=?BASE64?ZWNobw==?="},
        {"mcp_name": "=?base64?ZWNobw=="},
        {"mcp_protocol_version": None},
        {"mcp_protocol_version": LEGACY},
    ],
    ids=str,
)
def test_headers_that_do_not_say_what_the_body_says_are_refused(door, mark, changed):
    refuses(door, request(modern_call(mark), modern_headers(**changed)), HEADER_MISMATCH, mark)


@pytest.mark.parametrize("second", ["same", "other"])
@pytest.mark.parametrize("name", ["mcp-method", "mcp-name", "mcp-protocol-version", "Mcp-Name"])
def test_a_header_that_routes_and_is_there_twice_is_refused(door, mark, name, second):
    headers = modern_headers()
    value = dict(headers)[name.lower()] if second == "same" else "other"
    refuses(door, request(modern_call(mark), [*headers, (name, value)]), HEADER_MISMATCH, mark)


@pytest.mark.parametrize(
    "changed",
    [
        {"mcp_name": sentinel(b"echo")},
        {"mcp_name": "  echo\t"},
        {"mcp_param_region": "eu", "mcp_param_anything": sentinel("Grüße".encode())},
        {"mcp_session_id": "stray"},
        {"last_event_id": "7"},
    ],
    ids=str,
)
def test_headers_that_agree_or_are_unknown_are_let_through(door, mark, changed):
    with door.enter() as wire:
        assert wire.ask(request(modern_call(mark), modern_headers(**changed))).status == 200
    (seen,) = door.recorder.saw(mark)
    for name, value in changed.items():
        if name.startswith("mcp_param"):
            assert seen.header(name.replace("_", "-")) == [value]


def test_a_name_that_needs_it_is_compared_after_decoding(door, mark):
    name = "Größe ☃ "
    with door.enter() as wire:
        headers = modern_headers(mcp_name=sentinel(name.encode()))
        assert wire.ask(request(modern_call(mark, name), headers)).status == 200
        assert told(wire.ask(request(modern_call(mark, "Größe"), headers))) == HEADER_MISMATCH


@pytest.mark.parametrize(
    "it",
    [
        None,
        {},
        {VERSION_KEY: MODERN},
        {CAPABILITIES_KEY: {}},
        {VERSION_KEY: MODERN, CAPABILITIES_KEY: []},
        {VERSION_KEY: 7, CAPABILITIES_KEY: {}},
        [],
    ],
    ids=str,
)
def test_a_modern_request_without_what_it_must_carry_is_refused(door, mark, it):
    call = modern_call(mark)
    call["params"]["_meta"] = it
    if it is None:
        del call["params"]["_meta"]
    refuses(door, request(call, modern_headers()), BAD_META, mark)


def test_a_version_that_nobody_knows_is_refused_with_those_that_are_known(door, mark):
    call = modern_call(mark, _meta=meta("2099-01-01"))
    with door.enter() as wire:
        answer = wire.ask(request(call, modern_headers(mcp_protocol_version="2099-01-01")))
        assert told(answer) == UNSUPPORTED
        assert answer.json["error"]["data"]["requested"] == "2099-01-01"
        assert MODERN in answer.json["error"]["data"]["supported"]
        assert serves(wire)
    assert not door.recorder.saw(mark)


@pytest.mark.parametrize("method", ["ping", "initialize", "logging/setLevel", "resources/subscribe"])
def test_methods_that_the_modern_era_has_not_are_not_found(door, mark, method):
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {"mark": mark, "_meta": meta()}}
    with door.enter() as wire:
        answer = wire.ask(request(body, modern_headers(mcp_method=method, mcp_name=None)))
        assert (answer.status, answer.json["error"]["code"]) == NO_METHOD[:2]
        assert serves(wire)


def test_a_refusal_says_which_request_it_answers(door, mark):
    for id in (7, "seven", 0, -1, "", 2**53):
        call = modern_call(mark) | {"id": id}
        with door.enter() as wire:
            answer = wire.ask(request(call, modern_headers(mcp_name="other")))
            assert answer.json["id"] == id
            assert answer.json["error"]["data"]["reason"] == answer.reason == "header_mismatch"
            assert answer.headers["content-type"] == "application/json"


# The request line and the way HTTP is spoken.

PATHS = [
    "/",
    "/mcp/",
    "//mcp",
    "/MCP",
    "/mcp/x",
    "/mcp%00",
    "/mcp%2f",
    "/%6dcp",
    "/mcp/..;/mcp",
    "/x/../mcp",
    "/x/%2e%2e/mcp",
    "/./mcp",
    "/mcp;x=1",
    "/mcp%3fx",
    "/servers/tests/recorder",
    "/servers/tests//recorder/mcp",
    "/metrics",
    "*",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_only_resemble_the_endpoint_lead_nowhere(door, mark, path):
    refuses(door, request(modern_call(mark), modern_headers(), path=path), NO_SUCH_PATH, mark)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "post", "BREW"])
def test_other_http_methods_are_refused(door, mark, method):
    with door.enter() as wire:
        answer = wire.ask(request(modern_call(mark), modern_headers(), method=method))
        assert told(answer) == HTTP_METHOD
        assert "POST" in answer.headers["allow"]
        assert serves(wire)
    assert not door.recorder.saw(mark)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_the_modern_era_has_one_http_method(door, method):
    with door.enter() as wire:
        headers = [("accept", "text/event-stream"), ("mcp-protocol-version", MODERN)]
        answer = wire.ask(request(None, headers, method=method))
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert serves(wire)


@pytest.mark.parametrize(
    "media_type",
    [None, "text/plain", "application/jsonx", "application/x-www-form-urlencoded", "multipart/form-data"],
)
def test_other_media_types_are_refused(door, mark, media_type):
    """Those that a web page can send without asking first, among them."""
    headers = modern_headers(content_type=media_type)
    refuses(door, request(modern_call(mark), headers), MEDIA_TYPE, mark)


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_the_media_type_may_be_written_in_other_ways(door, mark, media_type):
    with door.enter() as wire:
        assert wire.ask(request(modern_call(mark), modern_headers(content_type=media_type))).status == 200


def ambiguous(mark: str) -> dict[str, bytes]:
    """Requests of which two readers might disagree where they end or what they say."""
    body = json.dumps(modern_call(mark)).encode()
    length = ("content-length", str(len(body)))
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    plain = request(body, modern_headers())

    def framed(*headers, sent=body):
        return request(None, [*modern_headers(), *headers]) + sent

    return {
        "two lengths": framed(length, ("content-length", "5")),
        "two lengths in one": framed(("content-length", f"{len(body)}, 5")),
        "a length with a sign": framed(("content-length", f"+{len(body)}")),
        "a length in hexadecimal": framed(("content-length", hex(len(body)))),
        "a negative length": framed(("content-length", "-1")),
        "an endless length": framed(("content-length", "9" * 40)),
        "chunked, but not last": framed(("transfer-encoding", "chunked, identity"), sent=chunked),
        "chunked by another name": framed(("transfer-encoding", "xchunked"), sent=chunked),
        "a space before the colon": plain.replace(b"content-length:", b"content-length :"),
        "a folded line": plain.replace(b"mcp-name: echo", b"mcp-name: echo\r\n other"),
        "a header without a name": plain.replace(b"mcp-name:", b":"),
        "a NUL in a header": plain.replace(b"mcp-name: echo", b"mcp-name: ec\x00ho"),
        "a lone CR in a header": plain.replace(b"mcp-name: echo", b"mcp-name: ec\rho"),
        "no such version of HTTP": plain.replace(b"HTTP/1.1", b"HTTP/9.9"),
        "no version of HTTP": plain.replace(b" HTTP/1.1", b""),
        "a space in the path": plain.replace(b"POST /mcp", b"POST /m cp"),
        "a chunk of no size": framed(("transfer-encoding", "chunked"), sent=b"zz\r\n" + chunked),
        "a chunk of endless size": framed(("transfer-encoding", "chunked"), sent=b"f" * 17 + b"\r\n" + chunked),
        "chunk extensions without end": framed(
            ("transfer-encoding", "chunked"), sent=b"1;" + b"a" * 100_000 + b"\r\n" + chunked
        ),
    }


@pytest.mark.parametrize("name", ambiguous(""))
def test_http_that_can_be_read_in_two_ways_ends_the_connection(door, mark, name):
    with door.enter() as wire:
        assert wire.ask(ambiguous(mark)[name]).status == 400
        assert wire.is_closed()
    assert not door.recorder.saw(mark)


@pytest.mark.parametrize("first", ["content-length", "transfer-encoding"])
@pytest.mark.parametrize("coding", ["chunked", "gzip, chunked"])
def test_a_length_beside_chunks_hides_no_request(door, mark, first, coding):
    """Chunks say where such a request ends, here and at the server, and nothing may follow it."""
    body = json.dumps(modern_call(mark)).encode()
    framing = sorted({"content-length": "5", "transfer-encoding": coding}.items(), reverse=first != "content-length")
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with door.enter() as wire:
        answer = wire.ask(request(None, [*modern_headers(), *framing]) + chunked)
        assert answer.status in (200, 400)
        assert wire.is_closed()
    seen = door.recorder.saw(mark)
    assert len(seen) == (answer.status == 200)
    for it in seen:
        assert it.body == body
        assert it.header("content-length") == [str(len(body))] or not it.header("content-length")


def test_a_request_hidden_in_the_body_of_another_is_not_served(door, mark):
    hidden = request(modern_call(mark), modern_headers())
    with door.enter() as wire:
        headers = [*modern_headers(), ("content-length", str(len(hidden)))]
        assert told(wire.ask(request(None, headers) + hidden)) == MALFORMED
        assert serves(wire)
    assert not door.recorder.saw(mark)


def test_requests_sent_at_once_are_answered_one_by_one_in_order(door, mark):
    calls = [request(modern_call(mark) | {"id": number}, modern_headers()) for number in range(20)]
    with door.enter() as wire:
        wire.send(b"".join(calls))
        assert [wire.answer().json["id"] for _ in calls] == list(range(20))


@pytest.mark.parametrize(
    "headers",
    [
        [("x-long", "x" * 70_000)],
        [(f"x-{number}", "x") for number in range(200)],
        [("x" * 70_000, "x")],
        [("mcp-param-a", "x" * 70_000)],
        [("mcp-name", sentinel(b"echo" * 20_000))],
    ],
    ids=["a long value", "many", "a long name", "a long parameter", "a long sentinel"],
)
def test_a_head_that_is_too_large_is_refused(door, mark, headers):
    with door.enter() as wire:
        answer = wire.ask(request(modern_call(mark), [*modern_headers(), *headers]))
        assert answer.status == 431
    assert not door.recorder.saw(mark)


# Who asks, and for whom.


def test_the_server_is_told_who_calls_and_nothing_that_a_caller_made_up(door, mark):
    lies = [
        ("weft-caller", CALLER.format("weft-system", "admin")),
        ("Weft-Caller", CALLER.format("weft-system", "admin")),
        ("weft_caller", CALLER.format("weft-system", "admin")),
        ("weft-anything", "lie"),
        ("weft-reason", "lie"),
        ("x-forwarded-client-cert", "URI=spiffe://mesh.test/ns/weft-system/sa/admin"),
    ]
    with door.enter() as wire:
        answer = wire.ask(request(modern_call(mark), [*modern_headers(), *lies]))
        assert answer.status == 200
        assert answer.reason is None
    (seen,) = door.recorder.saw(mark)
    assert seen.header("weft-caller") == [CALLER.format(*AGENT)]
    assert "admin" not in str(seen.headers)
    assert "lie" not in dict(seen.headers).values()


def test_headers_about_the_connection_stay_on_it_and_others_go_on(door, mark):
    about_the_connection = [
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eDp5"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
    ]
    others = [("x-other", "1"), ("x-other", "2"), ("traceparent", f"00-{'1' * 32}-{'2' * 16}-01")]
    with door.enter() as wire:
        answer = wire.ask(request(modern_call(mark), [*modern_headers(), *about_the_connection, *others]))
        assert answer.status == 200
        assert serves(wire)
    (seen,) = door.recorder.saw(mark)
    assert not [name for name, _ in about_the_connection[1:] if seen.header(name)]
    assert "x-mine" not in str(seen.header("connection"))
    assert seen.header("x-other") in (["1", "2"], ["1, 2"])
    assert seen.header("traceparent")


def test_the_server_sees_itself_addressed_on_loopback(door, mark):
    with door.enter() as wire:
        assert wire.ask(request(modern_call(mark), modern_headers())).status == 200
    (seen,) = door.recorder.saw(mark)
    assert seen.header("host")[0] in (f"localhost:{door.recorder.port}", f"127.0.0.1:{door.recorder.port}")
    assert (seen.path, seen.header("origin")) == ("/mcp", [])


HOSTS = ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_is_refused_beside_the_agent(door, mark, host):
    """A web page whose name was made to point to loopback."""
    path = f"/servers/{NAMESPACE}/recorder/mcp"
    with door.enter_as_agent() as wire:
        answer = wire.ask(request(modern_call(mark), modern_headers(), path=path, host=host))
        assert told(answer) == FOREIGN_HOST
    assert not door.recorder.saw(mark)


@pytest.mark.parametrize("origin", ["http://evil.example", "https://localhost.evil.example", "null", "file://"])
@pytest.mark.parametrize("side", ["agent", "server"])
def test_a_foreign_origin_is_refused(door, mark, side, origin):
    headers = modern_headers(origin=origin)
    if side == "server":
        refuses(door, request(modern_call(mark), headers), FOREIGN_ORIGIN, mark)
        return
    with door.enter_as_agent() as wire:
        path = f"/servers/{NAMESPACE}/recorder/mcp"
        assert told(wire.ask(request(modern_call(mark), headers, path=path))) == FOREIGN_ORIGIN
    assert not door.recorder.saw(mark)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/servers/{NAMESPACE}/nothing/mcp", UNKNOWN_SERVER),
        ("/servers/other/recorder/mcp", UNKNOWN_SERVER),
        (f"/servers/{NAMESPACE}/recorder", NO_SUCH_PATH),
        (f"/servers/{NAMESPACE}/recorder/mcp/", NO_SUCH_PATH),
        (f"/servers/{NAMESPACE}/recorder/mcp/../../recorder/mcp", NO_SUCH_PATH),
        (f"/servers//{NAMESPACE}/recorder/mcp", NO_SUCH_PATH),
    ],
)
def test_the_agent_reaches_only_what_there_is(door, mark, path, expected):
    with door.enter_as_agent() as wire:
        assert told(wire.ask(request(modern_call(mark), modern_headers(), path=path))) == expected
    assert not door.recorder.saw(mark)


def initialized(wire: Wire) -> str:
    """A legacy session's id."""
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    answer = wire.ask(request(body, modern_headers(mcp_protocol_version=None, mcp_method=None, mcp_name=None)))
    assert answer.status == 200, answer.body
    return answer.headers["mcp-session-id"]


def test_a_session_belongs_to_the_identity_that_opened_it(door, mark):
    with door.enter() as owner, door.enter("agents", "thief") as thief:
        session = initialized(owner)
        call = request(legacy_call(mark), legacy_headers(mcp_session_id=session))
        assert told(thief.ask(call)) == SESSION_UNKNOWN
        assert not door.recorder.saw(mark)
        assert owner.ask(call).status == 200
        assert len(door.recorder.saw(mark)) == 1


@pytest.mark.parametrize("session", ["x", "x" * 10_000, "../../etc", "'; --", "é", "a b"], ids=lambda it: it[:9])
def test_a_session_that_was_not_given_out_is_unknown(door, mark, session):
    with door.enter() as wire:
        answer = wire.ask(request(legacy_call(mark), legacy_headers(mcp_session_id=session)))
        assert answer.status in (400, 404)
        assert serves(wire)
    assert not door.recorder.saw(mark)


# The connection.


def test_plain_http_at_the_door_for_tls_is_not_answered(door, mark):
    with Wire(door.inbound) as wire:
        wire.send(request(modern_call(mark), modern_headers()))
        assert eventually(wire.is_closed)
    assert not door.recorder.saw(mark)


def test_tls_at_the_door_for_plain_http_is_not_answered(door):
    with pytest.raises(OSError):
        Wire(door.outbound, door.context(*AGENT))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_versions_of_tls_are_refused(door, version):
    context = door.context(*AGENT)
    context.minimum_version = version
    context.maximum_version = version
    with pytest.raises(OSError):
        Wire(door.inbound, context)


def test_nobody_enters_without_an_identity_of_the_mesh(door, tmp_path, mark):
    strangers = Authority(tmp_path / "strangers")
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.verify_mode = ssl.CERT_NONE
    for context in (nobody, door.context(*AGENT, authority=strangers)):
        with pytest.raises((OSError, ConnectionError)), Wire(door.inbound, context) as wire:
            wire.ask(request(modern_call(mark), modern_headers()))
    assert not door.recorder.saw(mark)


def test_tls_without_a_protocol_negotiated_speaks_http_1(door):
    identity = door.authority.identity(*AGENT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(identity.certificate, identity.key)
    with Wire(door.inbound, context) as wire:
        assert serves(wire)


def test_many_connections_that_say_nothing_keep_nobody_out(door):
    silent = [Wire(door.inbound) for _ in range(100)]
    with door.enter() as wire:
        assert serves(wire)
    for wire in silent:
        wire.__exit__()
