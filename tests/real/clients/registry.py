"""A client of MCP registries, `langchain-mcp-registry`: it looks about in one, and LangChain calls a tool of what it found.

    registry.py '{"registry": <url>, "token": …, "cache": <folder>, "agent": <origin of the agent's sidecar>, "server": …}'

Runs in an environment of its own.
"""

import asyncio
import json
import sys

from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_registry import MCPRegistryClient, RegistryToMCPConverter, ServerNotFoundError

REMOTES_AT = "http://localhost:7400/"


async def is_missing(asked) -> bool:
    try:
        await asked
    except ServerNotFoundError:
        return True
    return False


async def called(url: str) -> dict:
    client = MultiServerMCPClient({"found": {"transport": "streamable_http", "url": url}})
    tools = {tool.name: tool for tool in await client.get_tools()}
    came = await tools["echo"].ainvoke({"text": "hello"})
    return {"tools": sorted(tools), "came": came[0]["text"] if isinstance(came, list) else came}


async def main():
    told = json.loads(sys.argv[1])
    headers = {"Authorization": f"Bearer {told['token']}"}
    where = {"registry_url": f"{told['registry']}/servers", "cache_dir": told["cache"], "headers": headers}
    async with MCPRegistryClient(cache_enabled=False, **where) as client:
        name = told["server"]
        server = await client.get_server_details(name, "latest")
        exact = await client.get_server_details(name, server.version)
        config = RegistryToMCPConverter().convert(server)
        assert config.url.startswith(REMOTES_AT), config
        said = {
            "all": sorted(it.name for it in await client.search_servers()),
            "found": [it.name for it in await client.search_servers(name.split("/")[1])],
            "versions": [it.version for it in await client.get_server_versions(name)],
            "server": server.model_dump(mode="json"),
            "exact": exact == server,
            "official": server.is_official(),
            "missing": [
                await is_missing(client.get_server_details("io.example/none", "latest")),
                await is_missing(client.get_server_details(name, "0.0.0-none")),
            ],
            "transport": config.transport,
            **await called(config.url.replace(REMOTES_AT, f"{told['agent']}/")),
        }
    print(json.dumps(said))


asyncio.run(main())
