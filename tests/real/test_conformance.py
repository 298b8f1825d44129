"""The official conformance suite finds the same at a server and at the same server behind two sidecars, check by
check, whatever it finds."""

import sys
from pathlib import Path

import pytest

import suite
from agents import talk
from conftest import HERE
from mesh import document
from processes import eventually
from up import NAMESPACE, SECS_MAX, Up
from wire import MODERN

# Checks that end differently through the sidecars, by set, server, scenario and check, and why that is right.
_CUSTOM = ("2026-07-28", "typescript", "http-custom-header-server-validation")
_ENCODED = "our server does not compare arguments with their headers; the sidecar refuses what is no base64"
DIFFERENCES: dict[tuple[str, str, str, str], str] = {
    (*_CUSTOM, "sep-2243-server-reject-invalid-param-chars"): _ENCODED,
    (*_CUSTOM, "sep-2243-server-reject-invalid-param-chars#2"): _ENCODED,
    (*_CUSTOM, "sep-2243-server-reject-param-mismatch"): _ENCODED,
    (*_CUSTOM, "sep-2243-server-reject-param-mismatch#2"): _ENCODED,
    ("2025-11-25", "client", "initialize", "mcp-client-initialization#2"): (
        "the sidecar asks the server what it speaks before the client does, and the suite takes that for the client"
    ),
    ("2025-11-25", "everything", "dns-rebinding-protection", "localhost-host-rebinding-rejected"): (
        "the server takes any host; the sidecar beside the agent does not"
    ),
}

# Further ones at a virtual server, by set, scenario and check, with the servers where it is so.
_OURS, _ALL = ("python", "typescript"), ("python", "typescript", "everything")
_MODERN = "a virtual server speaks to its members in the modern era, where answers need no stream and none is resumed"
_CHANGED = "that a list changed is told when it did; the server says so and lists the same"
_KNOWN = "the server takes what it has never heard of; what is not listed is refused"
VIRTUAL: dict[tuple[str, str, str], tuple[tuple[str, ...], str]] = {
    ("2025-11-25", "server-sse-multiple-streams", "server-sse-streams-functional"): (_ALL, _MODERN),
    ("2025-11-25", "server-sse-polling", "server-sse-priming-event"): (_ALL, _MODERN),
    ("2025-11-25", "server-sse-polling", "server-sse-retry-field"): (_ALL, _MODERN),
    ("2025-11-25", "server-sse-polling", "server-sse-disconnect-resume"): (_OURS, _MODERN),
    ("2025-11-25", "server-sse-polling", "incoming-sse-event"): (("everything",), _MODERN),
    ("2025-11-25", "resources-subscribe", "resources-subscribe"): (("everything",), _KNOWN),
    ("2025-11-25", "resources-unsubscribe", "resources-unsubscribe"): (("everything",), _KNOWN),
    ("2025-11-25", "tools-call-simple-text", "tools-call-simple-text"): (("everything",), _KNOWN),
    ("2025-11-25", "tools-call-error", "tools-call-error"): (("everything",), _KNOWN),
    ("2025-11-25", "server-session-lifecycle", "server-session-terminated-returns-404"): (
        ("everything",),
        "the server forgets no session that was ended; the sidecar does",
    ),
    ("2026-07-28", "server-stateless", "sep-2575-server-sends-prompts-list-changed-on-subscription"): (_OURS, _CHANGED),
    ("2026-07-28", "server-stateless", "sep-2575-server-sends-tools-list-changed-on-subscription"): (_OURS, _CHANGED),
}

# What each server passes when it is asked directly: fewer, and the comparison compares less.
PASSED_MIN = {
    ("python", "2025-11-25"): 84,
    ("python", "2026-07-28"): 164,
    ("typescript", "2025-11-25"): 84,
    ("typescript", "2026-07-28"): 158,
    ("everything", "2025-11-25"): 45,
}


# What it looks for where tasks are, and what a server passes that has them when it is asked directly.
TASKS = {
    "tasks-lifecycle": 9,
    "tasks-capability-negotiation": 5,
    "tasks-wire-fields": 4,
    "tasks-request-state-removal": 3,
    "tasks-mrtr-input": 4,
    "tasks-mrtr-composition": 2,
    "tasks-request-headers": 5,
    "tasks-dispatch-and-envelope": 9,
    "tasks-required-task-error": 3,
}


# What the suite, as a server, looks for in clients. How clients are authorised by others is not a sidecar's matter.
CLIENT_SCENARIOS = [
    ("2025-11-25", "initialize"),
    ("2025-11-25", "tools_call"),
    ("2025-11-25", "elicitation-sep1034-client-defaults"),
    ("2025-11-25", "sse-retry"),
    ("2026-07-28", "tools_call"),
    ("2026-07-28", "request-metadata"),
    ("2026-07-28", "sep-2322-client-request-state"),
    ("2026-07-28", "http-standard-headers"),
    ("2026-07-28", "http-custom-headers"),
    ("2026-07-28", "http-invalid-tool-headers"),
    ("2026-07-28", "json-schema-ref-no-deref"),
]


@pytest.mark.parametrize(("server", "requirements"), PASSED_MIN)
def test_the_suite_finds_the_same_at_a_server_through_the_sidecars(parts, tmp_path, server, requirements):
    direct = suite.run(parts.direct(server), requirements, tmp_path / "direct")
    assert sum(status == "SUCCESS" for status in direct.values()) >= PASSED_MIN[server, requirements]
    through = suite.run(parts.through(server), requirements, tmp_path / "through")
    compare(direct, through, excused(requirements, server), tmp_path / "through")


@pytest.mark.parametrize("scenario", TASKS)
def test_the_suite_finds_the_same_tasks_at_a_server_through_the_sidecars(parts, tmp_path, scenario):
    direct = found_directly(parts.direct("rust-tasks"), scenario, tmp_path)
    through = suite.run_scenario(parts.through("rust-tasks"), scenario, MODERN, tmp_path / "through")
    compare(direct, through, excused(MODERN, "rust-tasks", scenario), tmp_path / "through")


def found_directly(url: str, scenario: str, tmp_path: Path) -> suite.Results:
    direct = suite.run_scenario(url, scenario, MODERN, tmp_path / "direct")
    assert sum(status == "SUCCESS" for status in direct.values()) >= TASKS[scenario]
    return direct


@pytest.fixture(scope="module")
def up(tmp_path_factory, request):
    """Each server alone at the address of a virtual server, under its own names."""
    if request.config.getoption("--direct"):
        pytest.skip("without sidecars there are no virtual servers")
    servers = {server: server for server, _ in PASSED_MIN} | {"rust-tasks": "rust-tasks"}
    virtual = lambda name: {"members": [{"server": f"{NAMESPACE}/{name}"}], "prefix": "never"}  # noqa: E731
    more = [document("VirtualServer", NAMESPACE, name, virtual(name)) for name in servers]
    it = Up(tmp_path_factory.mktemp("virtual"), servers, *more)
    try:
        it.known()
        eventually(lambda: all(talk("python-auto", it.virtual(name), ("tools",)).answers[0] for name in servers), SECS_MAX)
        yield it
    finally:
        it.close()


@pytest.mark.parametrize(("server", "requirements"), PASSED_MIN)
def test_the_suite_finds_the_same_at_a_virtual_server(up, tmp_path, server, requirements):
    direct = suite.run(f"http://127.0.0.1:{up.port(server)}/mcp", requirements, tmp_path / "direct")
    assert sum(status == "SUCCESS" for status in direct.values()) >= PASSED_MIN[server, requirements]
    virtual = suite.run(up.virtual(server), requirements, tmp_path / "virtual")
    meant = {(scenario, check) for (of, scenario, check), (at, _) in VIRTUAL.items() if of == requirements and server in at}
    compare(direct, virtual, excused(requirements, server) | meant, tmp_path / "virtual")


@pytest.mark.parametrize("scenario", TASKS)
def test_the_suite_finds_the_same_tasks_at_a_virtual_server(up, tmp_path, scenario):
    direct = found_directly(f"http://127.0.0.1:{up.port('rust-tasks')}/mcp", scenario, tmp_path)
    virtual = suite.run_scenario(up.virtual("rust-tasks"), scenario, MODERN, tmp_path / "virtual")
    compare(direct, virtual, excused(MODERN, "rust-tasks", scenario), tmp_path / "virtual")


@pytest.mark.parametrize(("version", "scenario"), CLIENT_SCENARIOS)
def test_the_suite_finds_the_same_at_a_client_through_the_sidecars(parts, tmp_path, version, scenario):
    client = f"node {HERE}/clients/conformance.cjs"
    direct = suite.run_client(client, scenario, version, tmp_path / "direct")
    assert "SUCCESS" in direct.values()
    if not parts.is_direct:
        client = f"{sys.executable} {HERE}/clients/through.py {client}"
    through = suite.run_client(client, scenario, version, tmp_path / "through")
    compare(direct, through, excused(version, "client", scenario), tmp_path / "through")


def excused(*which: str) -> set[tuple[str, str]]:
    """Which checks may end differently there."""
    return {it[2:] for it in DIFFERENCES if it[: len(which)] == which}


def compare(direct: suite.Results, through: suite.Results, excused: set[tuple[str, str]], out: Path):
    """Sees that both are the same but for what is excused, and that all of that still differs."""
    different = {it for it in direct.keys() | through.keys() if direct.get(it) != through.get(it)}
    for scenario, check in sorted(different - excused):
        print(f"{scenario} {check}: {direct.get((scenario, check))} directly, {through.get((scenario, check))} through")
        print(suite.why(out, scenario))
    assert not different - excused
    assert not excused - different, "differences that are none any more"
