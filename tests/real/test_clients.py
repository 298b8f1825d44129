"""Clients that nobody here wrote, and that are no part of the official SDKs, at one address for many servers: FastMCP's,
the MCP Inspector's command, and `mcp-remote`, by which agents that know only commands reach HTTP."""

import asyncio
import json
import os
import subprocess

import mcp
import pytest
from fastmcp import Client as FastMcp
from fastmcp.exceptions import ToolError
from mcp.client.stdio import StdioServerParameters

from conftest import MODULES
from processes import eventually
from up import SECS_MAX, Up, uri_at

INSPECTOR = MODULES / "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
MCP_REMOTE = MODULES / ".bin/mcp-remote"
SERVERS = {"a-both": "python", "b-legacy": "typescript-legacy-stdio", "c-modern": "typescript-modern"}
MODES = ("auto", "legacy")
TEXT = "Grüße \u2028 \U0001f9f6"
TALK_SECS_MAX = 60

modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def up(tmp_path_factory, request):
    if request.config.getoption("--direct"):
        pytest.skip("without sidecars there is no such address")
    it = Up(tmp_path_factory.mktemp("clients"), SERVERS)
    try:
        it.known()
        tools = lambda: talk(listed(FastMcp(it.all)))  # noqa: E731
        eventually(lambda: all(f"{name}_echo" in tools() for name in SERVERS), SECS_MAX)
        yield it
    finally:
        it.close()


def talk(conversation):
    return asyncio.run(asyncio.wait_for(conversation, TALK_SECS_MAX))


async def listed(client: FastMcp) -> list[str]:
    async with client:
        return [it.name for it in await client.list_tools()]


@modes
def test_fastmcp_lists_everything_once_and_uses_each_server(up, mode):
    async def conversation():
        progress = []

        async def on_progress(done, *_):
            progress.append(done)

        async with FastMcp(up.all, mode=mode, progress_handler=on_progress) as client:
            tools = [it.name for it in await client.list_tools()]
            prompts = [it.name for it in await client.list_prompts()]
            resources = [str(it.uri) for it in await client.list_resources()]
            assert len(tools) == len(set(tools)) and len(resources) == len(set(resources))
            for server in SERVERS:
                assert f"{server}_echo" in tools and f"{server}_test_simple_prompt" in prompts
                assert uri_at(SERVERS, server) in resources
                assert (await client.call_tool(f"{server}_echo", {"text": TEXT})).content[0].text == TEXT
                with pytest.raises(ToolError, match="intentionally"):
                    await client.call_tool(f"{server}_test_error_handling", {})
                progress.clear()
                await client.call_tool(f"{server}_test_tool_with_progress", {})
                assert progress == [0, 50, 100]
                prompt = await client.get_prompt(f"{server}_test_prompt_with_arguments", {"arg1": "a", "arg2": "b"})
                assert prompt.messages[0].content.text == "Prompt with arguments: arg1='a', arg2='b'"
                read = await client.read_resource(uri_at(SERVERS, server, "test://static-text"))
                assert read[0].text == "This is the content of the static text resource."

    talk(conversation())


def inspect(up: Up, era: str, method: str, *words: str) -> dict:
    """What the inspector's command says."""
    command = ["node", INSPECTOR, "--cli", up.all, "--transport", "http", "--format", "json"]
    command += ["--protocol-era", era, "--method", method, *words]
    home = os.environ | {"HOME": str(up.folder)}
    ran = subprocess.run(command, cwd=up.folder, env=home, capture_output=True, text=True, timeout=TALK_SECS_MAX)
    assert ran.returncode == 0, f"{words}: {ran.stdout}{ran.stderr}"
    return json.loads(ran.stdout)["result"]


@pytest.mark.parametrize("era", ("legacy", "modern"))
def test_the_inspector_lists_what_there_is_calls_and_reads(up, era):
    tools = [it["name"] for it in inspect(up, era, "tools/list")["tools"]]
    resources = [it["uri"] for it in inspect(up, era, "resources/list")["resources"]]
    assert all(f"{name}_echo" in tools and uri_at(SERVERS, name) in resources for name in SERVERS)
    assert len(tools) == len(set(tools))
    for server in SERVERS:
        said = inspect(up, era, "tools/call", "--tool-name", f"{server}_echo", "--tool-arg", f"text={TEXT}")
        assert said["content"][0]["text"] == TEXT
        read = inspect(up, era, "resources/read", "--uri", uri_at(SERVERS, server, "test://static-text"))
        assert read["contents"][0]["text"] == "This is the content of the static text resource."


@modes
def test_an_agent_that_knows_only_commands_uses_each_server_through_mcp_remote(up, mode):
    command = StdioServerParameters(
        command="node", args=[str(MCP_REMOTE), up.all], env={"MCP_REMOTE_CONFIG_DIR": str(up.folder / "remote")}
    )

    async def conversation():
        async with mcp.Client(command, mode=mode) as client:
            tools = [it.name for it in (await client.list_tools()).tools]
            for server in SERVERS:
                assert f"{server}_echo" in tools
                said = await client.call_tool(f"{server}_echo", {"text": TEXT})
                assert said.content[0].text == TEXT
                assert (await client.call_tool(f"{server}_test_error_handling", {})).is_error

    talk(conversation())
