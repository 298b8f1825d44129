"""Agents on official SDKs use servers on official SDKs through two sidecars, whatever the era of either."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from agents import AGENTS, WATCHED, talk
from conftest import HTTP, STDIO

OURS = ("python", "typescript", "python-stdio", "typescript-stdio")
EVERYTHING = ("everything", "everything-stdio")
INVALID_PARAMS = -32602
# Servers of one era only. Ours have both, and so does the sidecar before a server that is a command.
LEGACY_ONLY = ("everything", "everything-sse")

agents = pytest.mark.parametrize("agent", AGENTS)
our_servers = pytest.mark.parametrize("server", OURS)


def spoke(*content, progress=(), is_error=False):
    return {"content": list(content), "isError": is_error, "progress": list(progress)}


@agents
@our_servers
def test_tools_prompts_resources_and_completions_are_found_and_used(parts, agent, server):
    it = talk(
        agent,
        parts.through(server),
        ("tools",),
        ("call", "echo", {"text": "Grüße \u2028 \U0001f9f6"}),
        ("call", "test_multiple_content_types"),
        ("call", "test_error_handling"),
        ("prompts",),
        ("prompt", "test_prompt_with_arguments", {"arg1": "a", "arg2": "b"}),
        ("resources",),
        ("templates",),
        ("read", "test://static-text"),
        ("read", "test://template/7/data"),
        ("complete", "test_prompt_with_arguments", "arg1", "par"),
    )
    tools, echo, mixed, failed, prompts, prompt, resources, templates, text, data, completions = it.answers
    assert it.is_modern == agent.endswith("-auto")
    assert {"echo", "wait", "test_simple_text"} <= set(tools)
    assert echo == spoke("Grüße \u2028 \U0001f9f6")
    assert [it.split(" of ")[0] for it in mixed["content"]] == [
        "Multiple content types test:",
        "image",
        '{"test":"data","value":123}',
    ]
    assert failed == spoke("This tool intentionally returns an error for testing", is_error=True)
    assert "test_simple_prompt" in prompts
    assert prompt == ["Prompt with arguments: arg1='a', arg2='b'"]
    assert WATCHED in resources
    assert templates == ["test://template/{id}/data"]
    assert text == ["This is the content of the static text resource."]
    assert "Data for ID: 7" in data[0]
    assert completions == ["paris", "park", "party"]


@agents
@our_servers
def test_what_is_not_there_is_an_error_of_the_server(parts, agent, server):
    it = talk(
        agent,
        parts.through(server),
        ("call", "no_such_tool"),
        ("prompt", "no_such_prompt"),
        ("read", "test://nothing"),
        ("call", "echo", {"text": "still there"}),
    )
    assert it.answers == [{"error": INVALID_PARAMS}] * 3 + [spoke("still there")]


@agents
@our_servers
def test_progress_and_log_messages_arrive_while_a_call_is_under_way(parts, agent, server):
    level = [] if agent.endswith("-auto") else [("level", "info")]
    it = talk(
        agent, parts.through(server), *level, ("call", "test_tool_with_progress"), ("call", "test_tool_with_logging")
    )
    assert it.answers[len(level)] == spoke("Reported three times.", progress=[0, 50, 100])
    assert it.logs == ["Tool execution started", "Tool processing data", "Tool execution completed"]


@agents
@our_servers
def test_a_server_asks_the_agent_while_a_call_is_under_way(parts, agent, server):
    it = talk(
        agent,
        parts.through(server),
        ("call", "test_elicitation", {"message": "Who?"}),
        ("call", "test_sampling", {"prompt": "Hello?"}),
    )
    elicited, sampled = it.answers
    assert "ada@mesh.test" in elicited["content"][0]
    assert "so you say: Hello?" in sampled["content"][0]
    assert it.asked == ["elicitation/create", "sampling/createMessage"]


@pytest.mark.parametrize("agent", [it for it in AGENTS if it.endswith("-auto")])
@our_servers
def test_a_call_that_needs_several_answers_keeps_its_state(parts, agent, server):
    it = talk(
        agent,
        parts.through(server),
        ("call", "test_input_required_result_multiple_inputs"),
        ("call", "test_input_required_result_multi_round"),
    )
    assert all("state-ok" in answer["content"][0] for answer in it.answers)
    assert sorted(it.asked[:3]) == ["elicitation/create", "roots/list", "sampling/createMessage"]
    assert it.asked[3:] == ["elicitation/create"] * 2


@agents
@our_servers
def test_a_subscriber_learns_of_changes(parts, agent, server):
    it = talk(agent, parts.through(server), ("watch",), ("notice",))
    assert it.answers == [WATCHED, True]


@agents
@our_servers
def test_a_server_learns_that_a_call_was_cancelled(parts, agent, server):
    it = talk(agent, parts.through(server), ("cancel",), ("call", "echo", {"text": "still there"}))
    assert it.answers == ["abandoned", spoke("still there")]


@our_servers
def test_agents_of_all_kinds_at_once_get_their_own_answers(parts, server):
    url, many = parts.through(server), 50
    with ThreadPoolExecutor(len(AGENTS)) as pool:
        talks = list(pool.map(lambda agent: talk(agent, url, ("crowd", many)), AGENTS))
    assert [it.answers for it in talks] == [[many]] * len(AGENTS)


@pytest.mark.parametrize("agent", [it for it in AGENTS if it.endswith("-legacy")])
def test_legacy_agents_set_the_level_of_logging_and_ping(parts, agent):
    it = talk(agent, parts.through("python"), ("level", "warning"), ("ping",))
    assert it.answers == [{}, {}]


@agents
@pytest.mark.parametrize("server", EVERYTHING)
def test_the_reference_server_is_used_by_agents_of_both_eras(parts, agent, server):
    """It has the legacy era only. What a server asks of the agent is not carried from one era to the other."""
    it = talk(
        agent,
        parts.through(server),
        ("tools",),
        ("call", "echo", {"message": "hello"}),
        ("call", "get-sum", {"a": 2, "b": 3}),
        ("call", "trigger-long-running-operation", {"duration": 0.2, "steps": 4}),
        ("prompts",),
        ("prompt", "args-prompt", {"city": "Turin"}),
        ("read", "demo://resource/static/document/architecture.md"),
    )
    tools, echo, total, long, prompts, prompt, read = it.answers
    assert "get-sum" in tools
    assert echo == spoke("Echo: hello")
    assert "5" in total["content"][0]
    assert long["progress"] == [1, 2, 3, 4]
    assert "args-prompt" in prompts
    assert "Turin" in prompt[0]
    assert len(read[0]) > 100


@agents
def test_the_reference_server_of_the_oldest_transport_is_used_as_a_current_one(parts, agent):
    it = talk(agent, parts.through("everything-sse"), ("tools",), ("call", "echo", {"message": "hello"}))
    assert "echo" in it.answers[0]
    assert it.answers[1] == spoke("Echo: hello")


@agents
def test_files_are_listed_and_read_through_a_published_stdio_server(parts, agent):
    note = str(parts.files / "note.txt")
    it = talk(
        agent,
        parts.through("filesystem"),
        ("tools",),
        ("call", "read_text_file", {"path": note}),
        ("call", "list_directory", {"path": str(parts.files)}),
        ("call", "read_text_file", {"path": "/etc/passwd"}),
    )
    tools, read, listed, refused = it.answers
    assert "read_text_file" in tools
    assert read == spoke("A note.\n")
    assert "note.txt" in listed["content"][0]
    assert refused["isError"]


@agents
def test_the_time_is_told_by_a_published_stdio_server(parts, agent):
    it = talk(
        agent,
        parts.through("time"),
        ("tools",),
        ("call", "convert_time", {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
    )
    tools, told = it.answers
    assert tools == ["convert_time", "get_current_time"]
    assert "21:00" in told["content"][0]


def test_every_server_is_used():
    named = {*OURS, *EVERYTHING, "everything-sse", "filesystem", "time"}
    assert named == HTTP.keys() | STDIO.keys()
