"""Tasks across the eras. A call that a server of 2025-11-25 will only do as a task, for a caller that knows tasks as the
extension of the modern era: the reference server, whose research takes about four seconds, on the official TypeScript SDK's
own tasks. And the other way round: a server on the official Rust SDK, which has the extension, for an agent of 2025-11-25
on the official TypeScript SDK."""

import itertools
import json
import subprocess
import sys

import pytest
import requests

from conftest import HERE
from processes import eventually
from wire import CAPABILITIES_KEY, MODERN, VERSION_KEY, modern_headers

TASKS = "io.modelcontextprotocol/tasks"
TOOL = "simulate-research-query"
SECS_MAX = 30
ids = itertools.count(1)


@pytest.fixture(params=["everything", "everything-stdio"])
def url(parts, request):
    if parts.is_direct:
        pytest.skip("the server itself does not know the modern era")
    return parts.through(request.param)


def ask(url: str, method: str, name: str, params: dict, knows: bool = True, **more) -> dict:
    capabilities = {"extensions": {TASKS: {}} if knows else {}, **more}
    params = {**params, "_meta": {VERSION_KEY: MODERN, CAPABILITIES_KEY: capabilities}}
    body = {"jsonrpc": "2.0", "id": next(ids), "method": method, "params": params}
    headers = dict(modern_headers(mcp_method=method, mcp_name=name or None))
    response = requests.post(url, json=body, headers=headers, timeout=SECS_MAX)
    answer = response.json()
    assert answer["id"] == body["id"]
    return answer


def begin(url: str, topic: str, capabilities: dict | None = None, **more) -> dict:
    call = {"name": TOOL, "arguments": {"topic": topic, **more}}
    answer = ask(url, "tools/call", TOOL, call, **(capabilities or {}))
    assert answer["result"]["resultType"] == "task", answer
    return answer["result"]


def about(url: str, method: str, task: str, **more) -> dict:
    return ask(url, method, task, {"taskId": task, **more})


def test_research_goes_on_as_a_task_until_its_report_is_there(url):
    discovered = ask(url, "server/discover", "", {})["result"]
    assert TASKS in discovered["capabilities"]["extensions"] and "tasks" not in discovered["capabilities"]
    # What is ambiguous would be asked about, if somebody could be asked.
    task = begin(url, "rust", ambiguous=True)
    assert task["status"] == "working" and "ttlMs" in task
    seen = []

    def is_over() -> bool:
        now = about(url, "tasks/get", task["taskId"])["result"]
        assert (now["resultType"], now["taskId"]) == ("complete", task["taskId"])
        seen.append(now)
        return now["status"] != "working"

    eventually(is_over, SECS_MAX)
    assert seen[0]["status"] == "working" and seen[-1]["status"] == "completed"
    assert "Research Report: rust" in seen[-1]["result"]["content"][0]["text"]
    assert all("result" not in it for it in seen[:-1])
    # What has ended is cancelled in vain, and without harm.
    assert about(url, "tasks/cancel", task["taskId"])["result"]["resultType"] == "complete"
    assert about(url, "tasks/get", task["taskId"])["result"]["status"] == "completed"


def test_what_the_research_wants_to_know_is_asked_in_its_middle(url):
    task = begin(url, "python", {"elicitation": {}}, ambiguous=True)["taskId"]
    standing = lambda: about(url, "tasks/get", task)["result"]  # noqa: E731

    def is_asked() -> dict | None:
        now = standing()
        assert now["status"] in ("working", "input_required"), now
        return now if now["status"] == "input_required" else None

    waits = eventually(is_asked, SECS_MAX)
    ((key, wish),) = waits["inputRequests"].items()
    assert wish["method"] == "elicitation/create" and "python" in wish["params"]["message"]
    assert "_meta" not in wish["params"]
    assert list(standing()["inputRequests"]) == [key]
    answer = {"action": "accept", "content": {"interpretation": "snake"}}
    assert about(url, "tasks/update", task, inputResponses={key: answer})["result"]["resultType"] == "complete"
    done = eventually(lambda: now if (now := standing())["status"] == "completed" else None, SECS_MAX)
    assert "Research Report: python (snake)" in done["result"]["content"][0]["text"]


def test_a_task_is_cancelled(url):
    task = begin(url, "go")["taskId"]
    assert about(url, "tasks/update", task, inputResponses={})["result"]["resultType"] == "complete"
    assert about(url, "tasks/cancel", task)["result"]["resultType"] == "complete"
    cancelled = about(url, "tasks/get", task)["result"]
    assert cancelled["status"] == "cancelled" and "result" not in cancelled


def test_whoever_does_not_know_tasks_is_told_what_is_missing_and_others_ids_are_none(url):
    call = {"name": TOOL, "arguments": {"topic": "c"}}
    error = ask(url, "tools/call", TOOL, call, knows=False)["error"]
    assert (error["code"], error["data"]["requiredCapabilities"]) == (-32021, {"extensions": {TASKS: {}}})
    error = about(url, "tasks/get", "786512e2-9e0d-44bd-8f29-789f320fe840")["error"]
    assert (error["code"], error["data"]["reason"]) == (-32602, "task_unknown")
    echo = ask(url, "tools/call", "echo", {"name": "echo", "arguments": {"message": "x"}})["result"]
    assert echo["content"][0]["text"] == "Echo: x"


def as_task(parts, tool: str, cancel: bool = False, **arguments) -> dict:
    if parts.is_direct:
        pytest.skip("the server itself does not know the legacy era")
    script = {"url": parts.through("rust-tasks"), "tool": tool, "arguments": arguments, "cancel": cancel}
    command = ["node", HERE / "clients/tasks.cjs", json.dumps(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECS_MAX)
    sys.stderr.write(done.stderr)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["tasks"] and set(said["support"].values()) == {"optional"}
    return said


def text_of(said: dict) -> str:
    related = said["result"]["_meta"]["io.modelcontextprotocol/related-task"]
    assert related["taskId"]
    return said["result"]["content"][0]["text"]


def test_a_legacy_agent_has_tasks_of_a_modern_server_to_their_ends(parts):
    said = as_task(parts, "slow_compute", seconds=1)
    assert text_of(said) == "computed" and said["listed"].count(True) == 1
    assert said["seen"][:2] == ["working", "working"] and said["seen"][-2:] == ["completed", "result"]
    # A tool that failed is a failed task of this era.
    failed = as_task(parts, "failing_job")
    assert failed["seen"][-2:] == ["failed", "error"] and "result" not in failed


def test_a_legacy_agent_has_a_task_also_where_the_server_answers_at_once(parts):
    said = as_task(parts, "greet", name="Ada")
    assert text_of(said) == "Hello, Ada!" and said["listed"].count(True) == 1
    assert said["seen"] == ["completed", "completed", "result"]


def test_a_legacy_agent_cancels_a_task(parts):
    said = as_task(parts, "slow_compute", cancel=True, seconds=60)
    assert said["seen"][-2:] == ["cancelled", "error"] and said["cancelled"] in ("working", "cancelled")


@pytest.mark.parametrize(
    ("tool", "asked", "answer"),
    [("confirm_delete", ["Sure?"], "true"), ("multi_input", ["First?", "Second?"], "ada"), ("test_tool_with_task", ["Who are you?"], "ada")],
)
def test_a_legacy_agent_is_asked_what_a_task_wants_to_know(parts, tool, asked, answer):
    said = as_task(parts, tool)
    assert sorted(said["asked"]) == asked
    assert answer in text_of(said)
