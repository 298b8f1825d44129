"""Agents on official SDKs use servers on official SDKs through two sidecars, whatever the era of either."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from agents import AGENTS, ERA_OF, RUST_AGENTS, WATCHED, talk
from conftest import HTTP, STDIO

EVERYTHING = ("everything", "everything-stdio")
INVALID_PARAMS = -32602

# Servers that speak the agent's own era, and servers that do not: then the sidecar translates.
BOTH_ERAS = ("python", "typescript", "python-stdio", "typescript-stdio")
ONE_ERA = ("typescript-legacy", "typescript-modern", "typescript-legacy-stdio", "typescript-modern-stdio")
# What an agent does with one of our servers, in one conversation.
SCRIPT = {
    "tools": ("tools",),
    "echo": ("call", "echo", {"text": "Grüße \u2028 \U0001f9f6"}),
    "mixed": ("call", "test_multiple_content_types"),
    "failed": ("call", "test_error_handling"),
    "prompts": ("prompts",),
    "prompt": ("prompt", "test_prompt_with_arguments", {"arg1": "a", "arg2": "b"}),
    "resources": ("resources",),
    "templates": ("templates",),
    "text": ("read", "test://static-text"),
    "data": ("read", "test://template/7/data"),
    "completions": ("complete", "test_prompt_with_arguments", "arg1", "par"),
    "no tool": ("call", "no_such_tool"),
    "no prompt": ("prompt", "no_such_prompt"),
    "no resource": ("read", "test://nothing"),
    "progress": ("call", "test_tool_with_progress"),
    "logs": ("call", "test_tool_with_logging"),
    "watch": ("watch",),
    "notice": ("notice",),
    "cancel": ("cancel",),
    "after": ("call", "echo", {"text": "still there"}),
}

agents = pytest.mark.parametrize("agent", AGENTS)
our_servers = pytest.mark.parametrize("server", BOTH_ERAS + ONE_ERA)


def spoke(*content, progress=(), is_error=False):
    return {"content": list(content), "isError": is_error, "progress": list(progress)}


def through(parts, agent: str, server: str, *steps: tuple):
    if parts.is_direct and ERA_OF[agent] == "legacy" and "-modern" in server:
        pytest.skip("these two cannot speak without a sidecar")
    return talk(agent, parts.through(server), *steps)


@pytest.fixture(scope="module")
def conversations():
    return {}


@pytest.fixture
def spoken(parts, conversations, agent, server):
    """What came of each part of the script, and what the agent heard besides."""
    if (agent, server) not in conversations:
        level = [("level", "info")] if ERA_OF[agent] == "legacy" else []
        it = through(parts, agent, server, *level, *SCRIPT.values())
        conversations[agent, server] = it, dict(zip(SCRIPT, it.answers[len(level) :]))
    return conversations[agent, server]


@agents
@our_servers
def test_tools_are_found_and_called(parts, agent, server, spoken):
    it, came_of = spoken
    assert parts.is_direct or it.is_modern == (ERA_OF[agent] == "modern")
    assert {"echo", "wait", "test_simple_text"} <= set(came_of["tools"])
    assert came_of["echo"] == spoke("Grüße \u2028 \U0001f9f6")
    words, image, resource = came_of["mixed"]["content"]
    assert (words, resource) == ("Multiple content types test:", '{"test":"data","value":123}')
    assert image.startswith("image of ")
    assert came_of["failed"] == spoke("This tool intentionally returns an error for testing", is_error=True)


@agents
@our_servers
def test_prompts_resources_and_completions_are_found_and_used(spoken):
    _, came_of = spoken
    assert "test_simple_prompt" in came_of["prompts"]
    assert came_of["prompt"] == ["Prompt with arguments: arg1='a', arg2='b'"]
    assert WATCHED in came_of["resources"]
    assert came_of["templates"] == ["test://template/{id}/data"]
    assert came_of["text"] == ["This is the content of the static text resource."]
    assert "Data for ID: 7" in came_of["data"][0]
    assert came_of["completions"] == ["paris", "park", "party"]


@agents
@our_servers
def test_what_is_not_there_is_an_error_of_the_server(spoken):
    _, came_of = spoken
    missing = [came_of[name] for name in ("no tool", "no prompt", "no resource")]
    assert missing == [{"error": INVALID_PARAMS}] * 3


@agents
@our_servers
def test_progress_and_log_messages_arrive_while_a_call_is_under_way(spoken):
    it, came_of = spoken
    assert came_of["progress"] == spoke("Reported three times.", progress=[0, 50, 100])
    assert came_of["logs"]["content"] == ["Logged three times."]
    assert it.logs == ["Tool execution started", "Tool processing data", "Tool execution completed"]


@agents
@our_servers
def test_a_subscriber_learns_of_changes(spoken):
    _, came_of = spoken
    assert came_of["watch"] == WATCHED
    assert came_of["notice"] is True


@agents
@our_servers
def test_a_server_learns_that_a_call_was_cancelled(spoken):
    _, came_of = spoken
    assert came_of["cancel"] == "abandoned"
    assert came_of["after"] == spoke("still there")


def is_spoken_to_in_the_modern_era(agent: str, server: str) -> bool:
    """A command has one era for all who call, and that is the modern one where it has both."""
    if server in ONE_ERA:
        return "-modern" in server
    return server.endswith("-stdio") or ERA_OF[agent] == "modern"


@agents
@our_servers
def test_a_server_asks_the_agent_while_a_call_is_under_way(parts, agent, server):
    """Whatever the era of either: a request of its own, or an answer that wants input, is what the other end knows."""
    rounds = []
    if is_spoken_to_in_the_modern_era(agent, server):
        rounds = ["test_input_required_result_multiple_inputs", "test_input_required_result_multi_round"]
    elicited, sampled, *several = (
        it := through(
            parts,
            agent,
            server,
            ("call", "test_elicitation", {"message": "Who?"}),
            ("call", "test_sampling", {"prompt": "Hello?"}),
            *(("call", name) for name in rounds),
        )
    ).answers
    assert "ada@mesh.test" in elicited["content"][0]
    assert "so you say: Hello?" in sampled["content"][0]
    assert it.asked[:2] == ["elicitation/create", "sampling/createMessage"]
    if rounds:
        assert all("state-ok" in answer["content"][0] for answer in several)
        assert sorted(it.asked[2:5]) == ["elicitation/create", "roots/list", "sampling/createMessage"]
        assert it.asked[5:] == ["elicitation/create"] * 2


@agents
@our_servers
def test_each_question_of_many_at_once_gets_its_own_answer_and_a_form_may_be_declined(parts, agent, server):
    steps = [("asked_crowd", 8), ("act", "decline"), ("call", "test_elicitation", {"message": "Who?"})]
    crowd, _, declined = through(parts, agent, server, *steps).answers
    assert crowd == 8
    assert "decline" in declined["content"][0] and "ada@mesh.test" not in declined["content"][0]


@pytest.mark.parametrize("server", BOTH_ERAS + ONE_ERA)
def test_agents_of_all_kinds_at_once_get_their_own_answers(parts, server):
    many = 25
    with ThreadPoolExecutor(len(AGENTS)) as pool:
        talks = list(pool.map(lambda agent: through(parts, agent, server, ("crowd", many)), AGENTS))
    assert [it.answers for it in talks] == [[many]] * len(AGENTS)


@pytest.mark.parametrize("agent", [agent for agent in AGENTS if ERA_OF[agent] == "legacy"])
def test_legacy_agents_set_the_level_of_logging_and_ping(parts, agent):
    it = through(parts, agent, "python", ("level", "warning"), ("ping",))
    assert it.answers == [{}, {}]


@agents
@pytest.mark.parametrize("server", EVERYTHING)
def test_the_reference_server_is_used_by_agents_of_both_eras(parts, agent, server):
    """It has the legacy era only."""
    it = through(
        parts,
        agent,
        server,
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


@pytest.mark.parametrize("agent", [agent for agent in AGENTS if ERA_OF[agent] == "legacy"])
def test_the_reference_server_asks_legacy_agents(parts, agent):
    it = through(
        parts,
        agent,
        "everything",
        ("call", "trigger-elicitation-request"),
        ("call", "trigger-sampling-request", {"prompt": "Hello?", "maxTokens": 10}),
        ("call", "get-roots-list"),
    )
    elicited, sampled, roots = it.answers
    assert "ada@mesh.test" in elicited["content"][1]
    assert "so you say: " in sampled["content"][0]
    assert "file:///here" in roots["content"][0]
    assert {"elicitation/create", "sampling/createMessage", "roots/list"} <= set(it.asked)


@agents
def test_the_reference_server_of_the_oldest_transport_is_used_as_a_current_one(parts, agent):
    it = through(parts, agent, "everything-sse", ("tools",), ("call", "echo", {"message": "hello"}))
    assert "echo" in it.answers[0]
    assert it.answers[1] == spoke("Echo: hello")


@agents
def test_files_are_listed_and_read_through_a_published_stdio_server(parts, agent):
    note = str(parts.files / "note.txt")
    it = through(
        parts,
        agent,
        "filesystem",
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
    it = through(
        parts,
        agent,
        "time",
        ("tools",),
        ("call", "convert_time", {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
    )
    tools, told = it.answers
    assert tools == ["convert_time", "get_current_time"]
    assert "21:00" in told["content"][0]


@pytest.mark.parametrize("agent", RUST_AGENTS)
@our_servers
def test_an_agent_in_rust_finds_tools_and_calls_them(parts, agent, server):
    steps = [SCRIPT[name] for name in ("tools", "echo", "mixed", "failed", "no tool", "progress", "after")]
    it = through(parts, agent, server, *steps)
    assert parts.is_direct or it.is_modern == (ERA_OF[agent] == "modern")
    tools, echo, mixed, failed, no_tool, progress, after = it.answers
    assert {"echo", "wait", "test_simple_text"} <= set(tools)
    assert echo == spoke("Grüße \u2028 \U0001f9f6")
    assert mixed["content"][0] == "Multiple content types test:"
    assert failed == spoke("This tool intentionally returns an error for testing", is_error=True)
    assert no_tool == {"error": INVALID_PARAMS}
    assert progress == spoke("Reported three times.", progress=[0, 50, 100])
    assert after == spoke("still there")


def test_every_server_is_used():
    named = {*BOTH_ERAS, *ONE_ERA, *EVERYTHING, "everything-sse", "filesystem", "rust-tasks", "time"}
    assert named == HTTP.keys() | STDIO.keys()
