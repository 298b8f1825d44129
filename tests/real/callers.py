"""Agents that call and list without a pause while something happens, and what came of it."""

import asyncio
import threading
from collections import defaultdict
from contextlib import suppress

from mcp import Client
from mcp.shared.exceptions import MCPError

CALL_SECS_MAX = 20


class Callers:
    """One agent of each era for each server, each on a connection of its own, and one of each that lists."""

    def __init__(self, url: str, servers):
        self._url = url
        # What came of the calls, in their order: nothing where all went well, else why not.
        self.calls = defaultdict(list)
        self.lists = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all(servers)))
        self._failed = None
        self._thread.start()

    async def _all(self, servers):
        agents = [self._agent(mode, name) for mode in ("auto", "legacy") for name in [*servers, None]]
        try:
            await asyncio.gather(*agents)
        except BaseException as error:
            self._failed = error

    async def _agent(self, mode: str, server: str | None):
        async with Client(self._url, mode=mode) as client:
            while not self._stop.is_set():
                if server is None:
                    self.lists.add(tuple(it.name for it in (await client.list_tools()).tools))
                else:
                    self.calls[mode, server].append(await self._call(client, server))

    async def _call(self, client: Client, server: str) -> str | None:
        try:
            async with asyncio.timeout(CALL_SECS_MAX):
                said = (await client.call_tool(f"{server}_echo", {"text": server})).content[0].text
        except MCPError as error:
            return (error.error.data or {}).get("reason") or f"{error.error}"
        return None if said == server else f"it said {said}"

    def mark(self) -> dict:
        return {key: len(calls) for key, calls in self.calls.items()}

    def since(self, mark: dict, server: str) -> list:
        """What came of a server's calls since then, of each agent."""
        return [self.calls[mode, server][mark.get((mode, server), 0) :] for mode in ("auto", "legacy")]

    def check(self):
        assert self._thread.is_alive() and self._failed is None, f"an agent broke off: {self._failed!r}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        with suppress(RuntimeError):
            self._thread.join(CALL_SECS_MAX)
