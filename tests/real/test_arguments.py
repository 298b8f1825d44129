"""Arguments that mean different things to different readers: whatever a caller writes, a call that a policy lets pass is
one that satisfies the policy as the server sees it — by the parsers of the official SDKs.

`WEFT_ARGUMENTS_SEED` makes the cases of one seed again, and `WEFT_ARGUMENTS_CASES` says how many.
"""

import json
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from mesh import AGENT, NAMESPACE, document
from processes import Process
from wire import CAPABILITIES_KEY, MODERN, VERSION_KEY, Wire, modern_headers, request

HERE = Path(__file__).parent
CONDITIONS = json.loads((HERE / "servers/mirror.json").read_text())
MIRRORS = {
    "python": [sys.executable, HERE / "servers/mirror.py"],
    "typescript": ["node", HERE / "servers/mirror.cjs"],
}
SEED = int(os.environ.get("WEFT_ARGUMENTS_SEED", "1"))
CASES = int(os.environ.get("WEFT_ARGUMENTS_CASES", "2000"))

# What goes wrong somewhere, with each of these chances in a hundred.
ODD_TEXT, ODD_KEY, ODD_NAME, TWICE, DECOY, ODD_BODY = 5, 2, 8, 8, 30, 2
# In a thousand, of each place where there may be one.
ODD_SPACE = 2

NUMBERS = """0 -0 0.0 -0.0 0e5 1 99 100 -1 -1e400 1e400 1E400 1e-400 -1e-400 99.99999999999999999999 99.999999999999999
    100.0 1e2 1E+2 1.0e2 0.1e3 9007199254740991 9007199254740992 9007199254740993 9007199254740992.0 9007199254740992.5
    9.007199254740993e15 90071992547409920e-1 900719925474099200000000000000e-14 18446744073709551616 1e22 1e23
    123456789012345678901234567890 0.30000000000000004 5e-324 2e-324 1.7976931348623157e308 1.7976931348623159e308
    00 01 1. .5 +1 0x10 1_000 NaN Infinity -Infinity - 1e 1e+ ١ "5" "1" true false null [] {}""".split()
ZEROS = ["", ".0", ".00000000000000000000000", "e0", ".5", ".00000000000000000000001"]
TEXTS = ["/public", "/public/", "/public/a", "/data", "/secret", "", "/Public", "/publi", "/public/../secret"]
# Written into a text as they are.
ENDS = [b"\\u0000", b"\\u0000/x", b"\\ud800", b"\\udc00", b"\\ud800\\ud800", b"\\ud83d\\ude00", b"\\x", b"\\u12", b"\x00"]
ENDS += [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xe2\x80\x8b", b"\xef\xbb\xbf", b" ", b"\\n", b"\n", b"e\xcc\x81"]
SPACES = [b"", b" ", b"\t", b"\r\n", b"\n"]
ODD_SPACES = [b"\x0b", b"\x0c", b"\xc2\xa0", b"\xe2\x80\xa8", b"\x00", b"\xef\xbb\xbf", b"/**/", b","]
OBJECTS = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "$ref", "@type", ""]


class Writer:
    """Writes JSON as nobody does who means well."""

    def __init__(self, chance: random.Random):
        self.chance = chance

    def happens(self, percent: int) -> bool:
        return self.chance.randrange(100) < percent

    def spelled(self, text: str) -> bytes:
        """The same text, with some of it escaped."""
        out, percent = b"", self.chance.choice([0, 0, 20, 100])
        for char in text:
            if char == "/" and self.happens(percent):
                out += b"\\/"
            elif self.happens(percent):
                form = self.chance.choice(["\\u%04x", "\\u%04X"])
                out += (form % ord(char)).encode()
            else:
                out += json.dumps(char, ensure_ascii=False)[1:-1].encode()
        return out

    def text(self, text: str) -> bytes:
        end = self.chance.choice(ENDS) if self.happens(ODD_TEXT) else b""
        return b'"' + self.spelled(text) + end + b'"'

    def key(self, name: str) -> bytes:
        if self.happens(ODD_NAME):
            name = self.chance.choice([name.upper(), name.title(), f"{name} ", f" {name}", f"{name}.x", name[:-1]])
            name = self.chance.choice([name, name.replace("p", "\uff50"), name.replace("a", "\u0430")])
        end = self.chance.choice(ENDS) if self.happens(ODD_KEY) else b""
        return b'"' + self.spelled(name) + end + b'"'

    def number(self, near: str = "") -> bytes:
        if near and self.happens(30):
            return (near[:-1] + self.chance.choice("0123456789") + self.chance.choice(ZEROS)).encode()
        if self.happens(70):
            return self.chance.choice(NUMBERS).encode()
        digits = str(self.chance.getrandbits(self.chance.choice([3, 7, 53, 64, 120])))
        fraction = f".{self.chance.getrandbits(60)}" if self.happens(30) else ""
        exponent = f"{self.chance.choice('eE')}{self.chance.randint(-30, 30)}" if self.happens(30) else ""
        return (self.chance.choice(["", "-"]) + digits + fraction + exponent).encode()

    def path(self, best: str = "/public") -> bytes:
        if self.happens(10):
            return self.anything()
        return self.text(best if self.happens(50) else self.chance.choice(TEXTS))

    def anything(self) -> bytes:
        kind = self.chance.randrange(6)
        if kind == 0:
            return self.number()
        if kind == 1:
            return self.text(self.chance.choice(TEXTS))
        if kind == 2:
            return self.chance.choice([b"true", b"false", b"null", b"True", b"undefined"])
        if kind == 3:
            return self.chance.choice([b"[]", b"{}", b'["/public"]', b'{"path":"/public"}'])
        if kind == 4:
            depth = self.chance.choice([1, 5, 40, 60, 70, 200, 1500])
            return b"[" * depth + b"]" * depth
        return self.of("path_is", depth=1)

    def of(self, tool: str, depth: int = 0) -> bytes:
        """Arguments that a tool's policy looks at."""
        paths = [self.path() for _ in range(self.chance.randrange(4))]
        wanted = {
            "small": ("size", self.number("100")),
            "exact": ("size", self.number("9007199254740992")),
            "not_zero": ("size", self.number("0")),
            "unasked": ("admin", b"true"),
            "not_forced": ("force", self.chance.choice([b"false", b"true", b"null", b"0", b'"false"', b'""'])),
            "nested": ("where", self.object([("path", self.path())], "path", depth)),
            "all_public": ("paths", b"[" + b",".join(paths) + b"]"),
        }
        best = "/public/a" if tool == "path_under" else "/public"
        name, value = wanted.get(tool, ("path", self.path(best)))
        members = [(name, value)] if not (tool in ("unasked", "not_forced") and self.happens(60)) else []
        return self.object(members, name, depth)

    def object(self, members: list, name: str, depth: int) -> bytes:
        members = list(members)
        if self.happens(TWICE):
            members.append((name, self.anything()))
        while self.happens(DECOY):
            decoy = self.chance.choice(OBJECTS) if self.happens(60) else self.chance.choice("abcdefg")
            inner = self.anything() if depth or self.happens(40) else self.of(self.chance.choice([*CONDITIONS]), 1)
            members.append((decoy, inner))
        self.chance.shuffle(members)
        return self.joined([(self.key(name), value) for name, value in members])

    def joined(self, members: list) -> bytes:
        """Keys as they are written, with their values."""
        parts = [self.space() + key + self.space() + b":" + self.space() + value for key, value in members]
        return b"{" + (self.space() + b",").join(parts) + self.space() + b"}"

    def space(self) -> bytes:
        if self.chance.randrange(1000) < ODD_SPACE:
            return self.chance.choice(ODD_SPACES)
        return self.chance.choice(SPACES) if self.happens(20) else b""

    def body(self, tool: str) -> bytes:
        meta = json.dumps({VERSION_KEY: MODERN, CAPABILITIES_KEY: {}}).encode()
        params = [(b'"name"', self.text(tool)), (b'"arguments"', self.of(tool)), (b'"_meta"', meta)]
        other = self.chance.choice([*CONDITIONS, "heard"])
        if self.happens(ODD_BODY):
            params.append((self.key("arguments"), self.of(tool)))
        if self.happens(ODD_BODY):
            params.append((self.key("name"), self.text(other)))
        if self.happens(ODD_BODY):
            params.append((b'"__proto__"', self.joined([(b'"arguments"', self.of(tool)), (b'"name"', self.text(other))])))
        self.chance.shuffle(params)
        message = [(b'"jsonrpc"', b'"2.0"'), (b'"id"', b"7"), (b'"method"', b'"tools/call"')]
        message.append((b'"params"', self.joined(params)))
        if self.happens(ODD_BODY):
            message.append((self.key("params"), self.joined(params)))
        if self.happens(ODD_BODY):
            message.append((self.key("method"), self.text("tools/list")))
        self.chance.shuffle(message)
        body = self.joined(message)
        if self.happens(ODD_BODY):
            return self.chance.choice([
                b"\xef\xbb\xbf" + body,
                body.decode("latin-1").encode("utf-16"),
                body + b"\x00",
                body + body,
                b"[" + body + b"]",
                body[:-1],
                b"\x00" + body,
            ])
        return body


@dataclass
class Mirror:
    """A server that tells what it sees, behind a sidecar with the policy."""

    server: Process
    inbound: str
    context: object

    def enter(self) -> Wire:
        return Wire(self.inbound, self.context)


@pytest.fixture(params=MIRRORS)
def mirror(parts, request, tmp_path):
    if parts.is_direct:
        pytest.skip("there is no sidecar")
    name = f"mirror-{request.param}"
    server = Process(tmp_path / "log", *MIRRORS[request.param])
    rules = [{"action": "allow", "to": [{"tools": [tool]}], "when": when} for tool, when in CONDITIONS.items()]
    rules.append({"action": "allow", "to": [{"tools": ["heard"]}]})
    policy = document("AccessPolicy", NAMESPACE, name, {"servers": {"names": [name]}, "rules": rules})
    spec = {"workload": {"labels": {"app": name}, "port": server.ready["port"]}}
    inbound = parts.mesh.inbound(name, spec, policy)
    yield Mirror(server, inbound.ready["inbound"], parts.mesh.authority.context(*AGENT))
    server.stop()


def told(answer) -> dict:
    """What a tool said, in whichever form it came."""
    text = answer.body.decode()
    message = json.loads(text.rsplit("data: ", 1)[1] if text.startswith(("event:", "data:", ":", "id:")) else text)
    return json.loads(message["result"]["content"][0]["text"])


def test_what_a_policy_lets_pass_satisfies_it_as_the_server_sees_it(mirror):
    print(f"WEFT_ARGUMENTS_SEED={SEED} WEFT_ARGUMENTS_CASES={CASES}")
    writer, outcomes, heard = Writer(random.Random(SEED)), Counter(), 0
    wire = mirror.enter()
    for number in range(CASES):
        tool = writer.chance.choice([*CONDITIONS, *CONDITIONS, "forbidden"])
        body = writer.body(tool)
        try:
            answer = wire.ask(request(body, modern_headers(mcp_name=tool)))
        except (OSError, EOFError):
            wire = mirror.enter()
            answer = wire.ask(request(body, modern_headers(mcp_name=tool)))
        outcome = answer.reason
        if outcome is None and answer.status == 200 and b'"result"' in answer.body:
            seen = told(answer)
            heard += 1
            assert seen["satisfied"], f"case {number} of {SEED}: the server saw {seen} of {body[:4000]!r}"
            outcome = "passed"
        elif outcome is None:
            outcome = f"let pass, and refused by the server with {answer.status}"
        outcomes[outcome] += 1
        outcomes[tool, outcome] += 1
    for outcome, times in sorted(outcomes.items(), key=str):
        print(f"{times:6} {outcome}")
    said = told(wire.ask(request({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "heard", "arguments": {}, "_meta": {VERSION_KEY: MODERN, CAPABILITIES_KEY: {}}},
    }, modern_headers(mcp_name="heard"))))
    assert said["heard"] == heard, "the server heard of calls that were refused"
    # Of each kind there are enough to tell something.
    assert outcomes["malformed"] > CASES // 20
    for tool in CONDITIONS:
        assert outcomes[tool, "passed"] > CASES // 1000, tool
        assert outcomes[tool, "denied"] > CASES // 1000, tool
    assert not outcomes["forbidden", "passed"]
