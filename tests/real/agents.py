"""Agents on the official SDKs: each connects to a server, takes the steps it is told, and reports what came of each.

A step is a name and its values; what there are is in `Steps`, and the same in `clients/agent.cjs`. `clients/agent.rs`
has the first two.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import mcp_types as types
from mcp import Client
from mcp.client.sse import sse_client
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

TYPESCRIPT = ["node", Path(__file__).parent / "clients/agent.cjs"]
RUST = [os.environ["WEFT_RMCP_AGENT"]]
MODERN = "2026-07-28"
WATCHED = "test://watched-resource"
PATIENCE_SECS = 15
STEP_SECS_MAX = 30
SECS_MAX = 100
# The era that each agent speaks where both are offered.
ERA_OF = {
    "python-auto": "modern",
    "python-legacy": "legacy",
    "typescript-auto": "modern",
    "typescript-legacy": "legacy",
    "rust-auto": "modern",
    "rust-legacy": "legacy",
}
# Those that know every step; the one in Rust lists tools and calls them.
AGENTS = tuple(agent for agent in ERA_OF if not agent.startswith("rust-"))
RUST_AGENTS = tuple(agent for agent in ERA_OF if agent not in AGENTS)


@dataclass
class Talk:
    """What an agent and a server said."""

    version: str = ""
    answers: list = field(default_factory=list)
    # What the server asked of the agent, and told it.
    asked: list[str] = field(default_factory=list)
    logs: list = field(default_factory=list)
    updates: list[str] = field(default_factory=list)
    changes: int = 0
    # What becomes of a form.
    action: str = "accept"

    @property
    def is_modern(self) -> bool:
        return self.version == MODERN


def talk(agent: str, url: str, *steps: tuple) -> Talk:
    """Lets the agent take the steps."""
    sdk, mode = agent.split("-")
    if sdk == "python":
        return asyncio.run(asyncio.wait_for(talk_python(mode, url, *steps), SECS_MAX))
    script = {"url": url, "mode": mode, "transport": "sse" if url.endswith("/sse") else "http", "steps": steps}
    command = [*(RUST if sdk == "rust" else TYPESCRIPT), json.dumps(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECS_MAX)
    sys.stderr.write(done.stderr)
    assert done.returncode == 0, done.stderr
    return Talk(**json.loads(done.stdout))


async def talk_python(mode: str, url: str, *steps: tuple) -> Talk:
    it = Talk()
    async with connected(it, mode, url) as client:
        it.version = client.protocol_version
        agent = Steps(client, it)
        for name, *values in steps:
            try:
                async with asyncio.timeout(STEP_SECS_MAX):
                    it.answers.append(await getattr(agent, name)(*values))
            except MCPError as error:
                it.answers.append({"error": error.code})
            except Exception as error:
                it.answers.append({"error": repr(error)})
    return it


@asynccontextmanager
async def connected(it: Talk, mode: str, url: str):
    async def elicit(_, params):
        it.asked.append("elicitation/create")
        content = filled_in(params) if it.action == "accept" else None
        return types.ElicitResult(action=it.action, content=content)

    async def sample(_, params):
        it.asked.append("sampling/createMessage")
        said = f"so you say: {params.messages[0].content.text}"
        content = types.TextContent(type="text", text=said)
        return types.CreateMessageResult(role="assistant", model="none", content=content)

    async def roots(_):
        it.asked.append("roots/list")
        return types.ListRootsResult(roots=[types.Root(uri="file:///here", name="here")])

    async def log(params):
        it.logs.append(params.data)

    async def message(what):
        if isinstance(what, types.ResourceUpdatedNotification):
            it.updates.append(str(what.params.uri))
        elif isinstance(what, types.ToolListChangedNotification):
            it.changes += 1

    client = Client(
        sse_client(url) if url.endswith("/sse") else url,
        mode=mode,
        elicitation_callback=elicit,
        sampling_callback=sample,
        list_roots_callback=roots,
        logging_callback=log,
        log_level="info",
        message_handler=message,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        async with client:
            yield client


def filled_in(params) -> dict:
    """Texts say what was asked, so that it shows which question was answered."""
    schema = params.requested_schema
    value = {"string": f"ada@mesh.test: {params.message}", "boolean": True, "integer": 1, "number": 1}
    return {name: value[schema["properties"][name]["type"]] for name in schema.get("required", [])}


def spoken(content) -> str:
    if content.type == "text":
        return content.text
    if content.type == "resource":
        return content.resource.text
    return f"{content.type} of {len(content.data)}"


class Steps:
    def __init__(self, client: Client, it: Talk):
        self._client = client
        self._talk = it
        self._prefix = ""
        self._watched = WATCHED

    async def among(self, prefix: str, watched: str):
        """From here on the server meant is one among many: its names begin with a prefix, and this is what is watched."""
        self._prefix, self._watched = prefix, watched
        return {}

    async def tools(self):
        return sorted(it.name for it in (await self._client.list_tools()).tools)

    async def call(self, name: str, values: dict | None = None):
        progress = []

        async def on_progress(done, *_):
            progress.append(done)

        result = await self._client.call_tool(self._prefix + name, values or {}, progress_callback=on_progress)
        content = [spoken(it) for it in result.content]
        return {"content": content, "isError": bool(result.is_error), "progress": progress}

    async def prompts(self):
        return sorted(it.name for it in (await self._client.list_prompts()).prompts)

    async def prompt(self, name: str, values: dict | None = None):
        return [spoken(it.content) for it in (await self._client.get_prompt(self._prefix + name, values)).messages]

    async def resources(self):
        return sorted(str(it.uri) for it in (await self._client.list_resources()).resources)

    async def templates(self):
        found = (await self._client.list_resource_templates()).resource_templates
        return sorted(it.uri_template for it in found)

    async def read(self, uri: str):
        contents = (await self._client.read_resource(uri)).contents
        return [getattr(it, "text", None) or f"blob of {len(it.blob)}" for it in contents]

    async def complete(self, prompt: str, name: str, value: str):
        ref = types.PromptReference(type="ref/prompt", name=self._prefix + prompt)
        return (await self._client.complete(ref, {"name": name, "value": value})).completion.values

    async def ping(self):
        await self._client.send_ping()
        return {}

    async def level(self, level: str):
        await self._client.set_logging_level(level)
        return {}

    async def watch(self):
        """Whether an update of a resource arrives that was subscribed to."""
        if self._talk.is_modern:
            async with self._client.listen(resource_subscriptions=[self._watched]) as events:
                await self._client.call_tool(f"{self._prefix}touch", {})
                return (await anext(aiter(events))).uri
        await self._client.subscribe_resource(self._watched)
        await self._until("touch", lambda: self._talk.updates)
        await self._client.unsubscribe_resource(self._watched)
        return self._talk.updates[0]

    async def notice(self):
        """Whether it is told that the tools changed."""
        if self._talk.is_modern:
            async with self._client.listen(tools_list_changed=True) as events:
                await self._client.call_tool(f"{self._prefix}test_trigger_tool_change", {})
                return bool(await anext(aiter(events)))
        await self._until("test_trigger_tool_change", lambda: self._talk.changes)
        return True

    async def cancel(self):
        """Whether the server learns that a call was cancelled."""
        before = await self._cancelled()
        under_way = asyncio.Event()

        async def on_progress(*_):
            under_way.set()

        call = asyncio.create_task(
            self._client.call_tool(f"{self._prefix}wait", {"secs": 60}, progress_callback=on_progress)
        )
        await under_way.wait()
        call.cancel()
        done, _ = await asyncio.wait([call], timeout=PATIENCE_SECS)
        deadline = time.monotonic() + PATIENCE_SECS
        while await self._cancelled() == before:
            if time.monotonic() > deadline:
                return "the server does not know"
        return "abandoned" if done and call.cancelled() else "answered"

    async def crowd(self, many: int):
        """How many of so many calls at once are answered with what was asked."""
        texts = [f"{id(self)}-{at}" for at in range(many)]
        answers = await asyncio.gather(*(self.call("echo", {"text": it}) for it in texts))
        return sum(answer["content"] == [it] for answer, it in zip(answers, texts))

    async def act(self, action: str):
        self._talk.action = action
        return {}

    async def asked_crowd(self, many: int):
        """How many of so many calls at once, each of which asks something of its own, are answered with what was answered
        to that."""
        messages = [f"Who is {id(self)}-{at}?" for at in range(many)]
        answers = await asyncio.gather(*(self.call("test_elicitation", {"message": it}) for it in messages))
        return sum(it in answer["content"][0] for answer, it in zip(answers, messages))

    async def _cancelled(self) -> int:
        return int((await self.call("cancelled"))["content"][0])

    async def _until(self, tool: str, seen):
        """Calls the tool until what it causes is seen: a stream may open after the call that opened it returned."""
        async with asyncio.timeout(PATIENCE_SECS):
            while not seen():
                await self._client.call_tool(self._prefix + tool, {})
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.02)
