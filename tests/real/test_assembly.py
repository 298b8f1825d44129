"""Agents on official SDKs use servers of both eras and several transports at one address, in a mesh with a control plane:
what is shown is what the sidecars read of their servers, as the control plane tells it."""

import pytest

from agents import AGENTS, RUST_AGENTS, WATCHED, talk
from processes import eventually
from up import SECS_MAX, Up
from up import uri_at as uri_among

# Names of servers, and what each is. Of resources that several have, those of the first keep their URIs.
SERVERS = {"a-both": "python", "b-legacy": "typescript-legacy-stdio", "c-modern": "typescript-modern"}

# That the tools changed is told when they did: a server that says so and lists the same is not passed on.
SCRIPT = {
    "echo": ("call", "echo", {"text": "Grüße \u2028 \U0001f9f6"}),
    "failed": ("call", "test_error_handling"),
    "prompt": ("prompt", "test_prompt_with_arguments", {"arg1": "a", "arg2": "b"}),
    "completions": ("complete", "test_prompt_with_arguments", "arg1", "par"),
    "progress": ("call", "test_tool_with_progress"),
    "logs": ("call", "test_tool_with_logging"),
    "elicited": ("call", "test_elicitation", {"message": "Who?"}),
    "sampled": ("call", "test_sampling", {"prompt": "Hello?"}),
    "asked crowd": ("asked_crowd", 8),
    "watch": ("watch",),
    "cancel": ("cancel",),
    "crowd": ("crowd", 20),
    "after": ("call", "echo", {"text": "still there"}),
}


@pytest.fixture(scope="module")
def up(tmp_path_factory, request):
    if request.config.getoption("--direct"):
        pytest.skip("without sidecars there is no such address")
    it = Up(tmp_path_factory.mktemp("assembly"), SERVERS)

    def everything() -> bool:
        tools, resources = talk("python-auto", it.all, ("tools",), ("resources",)).answers
        return all(f"{name}_echo" in tools and uri_at(name, WATCHED) in resources for name in SERVERS)

    try:
        eventually(everything, SECS_MAX)
        yield it
    finally:
        it.close()


def uri_at(server: str, uri: str) -> str:
    return uri_among(SERVERS, server, uri)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("agent", AGENTS)
def test_one_address_is_as_good_as_the_servers_own(up, agent, server):
    watched = uri_at(server, WATCHED)
    level = [("level", "info")] if agent.endswith("-legacy") else []
    it = talk(agent, up.all, ("among", f"{server}_", watched), *level, *SCRIPT.values())
    came_of = dict(zip(SCRIPT, it.answers[1 + len(level) :]))
    assert came_of["echo"] == {"content": ["Grüße \u2028 \U0001f9f6"], "isError": False, "progress": []}
    assert came_of["failed"]["isError"]
    assert came_of["prompt"] == ["Prompt with arguments: arg1='a', arg2='b'"]
    assert came_of["completions"] == ["paris", "park", "party"]
    assert came_of["progress"]["progress"] == [0, 50, 100]
    assert came_of["logs"]["content"] == ["Logged three times."]
    assert it.logs == ["Tool execution started", "Tool processing data", "Tool execution completed"]
    assert "ada@mesh.test" in came_of["elicited"]["content"][0]
    assert "so you say: Hello?" in came_of["sampled"]["content"][0]
    assert it.asked == ["elicitation/create", "sampling/createMessage", *["elicitation/create"] * 8]
    assert came_of["asked crowd"] == 8
    assert came_of["watch"] == watched
    assert came_of["cancel"] == "abandoned"
    assert came_of["crowd"] == 20
    assert came_of["after"]["content"] == ["still there"]


@pytest.mark.parametrize("agent", AGENTS)
def test_everything_is_listed_once_under_a_name_of_its_own(up, agent):
    steps = [("tools",), ("prompts",), ("resources",), ("templates",)]
    reads = [("read", uri_at(server, "test://static-text")) for server in SERVERS]
    reads += [("read", uri_at(server, "test://template/7/data")) for server in SERVERS]
    tools, prompts, resources, templates, *read = talk(agent, up.all, *steps, *reads).answers
    for name in SERVERS:
        assert f"{name}_echo" in tools and f"{name}_test_simple_prompt" in prompts
        assert uri_at(name, WATCHED) in resources
        assert uri_at(name, "test://template/{id}/data") in templates
    assert len(tools) == len(set(tools)) and len(resources) == len(set(resources))
    texts, data = read[: len(SERVERS)], read[len(SERVERS) :]
    assert texts == [["This is the content of the static text resource."]] * len(SERVERS)
    assert all("Data for ID: 7" in it[0] for it in data)


@pytest.mark.parametrize("agent", RUST_AGENTS)
def test_an_agent_in_rust_uses_it_too(up, agent):
    for server in SERVERS:
        tools, echo = talk(agent, up.all, ("tools",), ("call", f"{server}_echo", {"text": "x"})).answers
        assert f"{server}_echo" in tools
        assert echo["content"] == ["x"]
