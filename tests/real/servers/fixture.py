"""A server for tests on the official Python SDK, in both eras: what the conformance suite asks of one, and a few tools
of our own. What it says is in `fixture.json`, which the other fixtures say too.

    fixture.py [--stdio]

Over HTTP it listens on `PORT`, or a port of the system's choice, and prints it.
"""

import asyncio
import functools
import hashlib
import hmac
import json
import os
import secrets
import socket
import sys
import warnings
from pathlib import Path
from typing import get_args

import mcp_types as types
import uvicorn
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.lowlevel import Server
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError, MCPDeprecationWarning

FIXTURE = json.loads((Path(__file__).parent / "fixture.json").read_text())
MODERN = "2026-07-28"
WATCHED = "test://watched-resource"
CAPABILITY_OF = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
INVALID_PARAMS, MISSING_CAPABILITY = -32602, -32021

state_key = secrets.token_bytes(32)
bus = InMemorySubscriptionBus()
subscribers: dict[str, set] = {}
waits_cancelled = 0


def text(words: str) -> dict:
    return {"content": [{"type": "text", "text": words}]}


async def pause():
    """The suite wants the steps of some tools apart."""
    await asyncio.sleep(0.05)


def filled(template, arguments: dict):
    """The template with each `{name}` in its texts replaced by the argument of that name."""
    if isinstance(template, dict):
        return {key: filled(value, arguments) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, arguments) for value in template]
    if isinstance(template, str):
        for name, value in arguments.items():
            template = template.replace("{" + name + "}", str(value))
    return template


# What the client is asked.


async def ask(ctx, request: dict):
    """Asks the client as servers did before answers could require input: by a request of its own."""
    params = request["params"]
    if request["method"] == "elicitation/create":
        answer = await ctx.session.elicit_form(params["message"], params["requestedSchema"], ctx.request_id)
        return f"action={answer.action}, content={json.dumps(answer.content or {})}"
    messages = [types.SamplingMessage.model_validate(it) for it in params["messages"]]
    answer = await ctx.session.create_message(
        messages, max_tokens=params["maxTokens"], related_request_id=ctx.request_id
    )
    return answer.content.text


async def ask_about(ctx, name: str, arguments: dict) -> dict:
    asked = FIXTURE["asked"][name]
    request = filled(asked["request"], arguments)
    if ctx.protocol_version != MODERN:
        return text(asked["prefix"] + await ask(ctx, request))
    answers = required(ctx, [{"answer": request}], stateful=False)
    return answers if "inputRequests" in answers else text(asked["prefix"] + json.dumps(answers))


def required(ctx, rounds: list[dict], stateful: bool, onlyDeclared: bool = False) -> dict:
    """What the client answered, or the result that asks for what is missing."""
    responses = ctx.params.get("inputResponses") or {}
    number = state_of(ctx.params.get("requestState"))
    declared = (ctx.session.client_capabilities or types.ClientCapabilities()).model_dump(exclude_none=True)
    wanted = rounds[number]
    undeclared = {CAPABILITY_OF[it["method"]] for it in wanted.values()} - declared.keys()
    if undeclared and not onlyDeclared:
        needed = {"requiredCapabilities": {name: {} for name in undeclared}}
        raise MCPError(MISSING_CAPABILITY, "the client cannot answer what this asks", needed)
    wanted = {key: it for key, it in wanted.items() if CAPABILITY_OF[it["method"]] not in undeclared}
    if wanted.keys() <= responses.keys():
        number += 1
        if number == len(rounds):
            return {key: responses[key] for key in wanted}
        wanted = rounds[number]
    result = {"resultType": "input_required", "inputRequests": wanted}
    if stateful:
        result["requestState"] = f"{number}.{signature(number)}"
    return result


def signature(number: int) -> str:
    return hmac.new(state_key, str(number).encode(), hashlib.sha256).hexdigest()


def state_of(state: str | None) -> int:
    if state is None:
        return 0
    number, _, signed = state.partition(".")
    if not number.isdigit() or not hmac.compare_digest(signed, signature(int(number))):
        raise MCPError(INVALID_PARAMS, "this is not a state that was given out here")
    return int(number)


# Tools.


async def log_three(ctx, _):
    for number, words in enumerate(
        ("Tool execution started", "Tool processing data", "Tool execution completed")
    ):
        if number:
            await pause()
        await ctx.session.send_log_message("info", words, related_request_id=ctx.request_id)
    return text("Logged three times.")


async def log_once(ctx, _):
    await ctx.session.send_log_message("info", "At work", related_request_id=ctx.request_id)
    return text("Logged.")


async def progress(ctx, _):
    for number, done in enumerate((0, 50, 100)):
        if number:
            await pause()
        await ctx.session.report_progress(done, 100, f"{done} of 100")
    return text("Reported three times.")


async def fail(*_):
    return text("This tool intentionally returns an error for testing") | {"isError": True}


async def reconnect(ctx, _):
    if ctx.close_sse_stream:
        await ctx.close_sse_stream()
        await pause()
    return text("Answered after the stream was closed.")


async def need_sampling(ctx, _):
    capabilities = ctx.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            MISSING_CAPABILITY, "the client cannot sample", {"requiredCapabilities": {"sampling": {}}}
        )
    return text("The client can sample.")


async def change_tools(ctx, _):
    await bus.publish(ToolsListChanged())
    if ctx.protocol_version != MODERN:
        await ctx.session.send_tool_list_changed()
    return text("The tools changed.")


async def change_prompts(ctx, _):
    await bus.publish(PromptsListChanged())
    if ctx.protocol_version != MODERN:
        await ctx.session.send_prompt_list_changed()
    return text("The prompts changed.")


async def echo(_, arguments):
    return text(arguments["text"])


async def wait(ctx, arguments):
    global waits_cancelled
    try:
        await ctx.session.report_progress(0, 1)
        await asyncio.wait_for(asyncio.Event().wait(), arguments["secs"])
    except TimeoutError:
        return text("Waited to the end.")
    except asyncio.CancelledError:
        waits_cancelled += 1
        raise


async def cancelled(*_):
    return text(str(waits_cancelled))


async def headers(ctx, _):
    return text(json.dumps(dict(ctx.request.headers) if ctx.request else {}))


async def touch(*_):
    await bus.publish(ResourceUpdated(uri=WATCHED))
    for session in subscribers.get(WATCHED, ()):
        await session.send_resource_updated(WATCHED)
    return text("Touched.")


TOOLS = {
    "test_tool_with_logging": log_three,
    "test_logging_tool": log_once,
    "test_tool_with_progress": progress,
    "test_error_handling": fail,
    "test_reconnection": reconnect,
    "test_missing_capability": need_sampling,
    "test_trigger_tool_change": change_tools,
    "test_trigger_prompt_change": change_prompts,
    "echo": echo,
    "wait": wait,
    "cancelled": cancelled,
    "headers": headers,
    "touch": touch,
}


# Methods.


async def list_tools(*_):
    return {"tools": FIXTURE["tools"]}


async def call_tool(ctx, params):
    name, arguments = params.name, params.arguments or {}
    if name in FIXTURE["said"]:
        return {"content": FIXTURE["said"][name]}
    if name in FIXTURE["asked"]:
        return await ask_about(ctx, name, arguments)
    if name in FIXTURE["rounds"]:
        if ctx.protocol_version != MODERN:
            return text("This tool asks in a way that this revision does not have.") | {"isError": True}
        if name == "test_streaming_elicitation":
            await ctx.session.report_progress(1, 2)
        answers = required(ctx, **FIXTURE["rounds"][name])
        return answers if "inputRequests" in answers else text("state-ok " + json.dumps(answers))
    if name in TOOLS:
        return await TOOLS[name](ctx, arguments)
    raise MCPError(INVALID_PARAMS, f"there is no tool {name}")


async def list_resources(*_):
    return {"resources": FIXTURE["resources"]}


async def list_templates(*_):
    return {"resourceTemplates": FIXTURE["templates"]}


async def read_resource(_, params):
    if params.uri in FIXTURE["contents"]:
        return {"contents": [FIXTURE["contents"][params.uri]]}
    if params.uri.startswith("test://template/") and params.uri.endswith("/data"):
        number = params.uri.split("/")[3]
        data = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        return {
            "contents": [{"uri": params.uri, "mimeType": "application/json", "text": json.dumps(data)}]
        }
    raise MCPError(INVALID_PARAMS, "there is no such resource", {"uri": params.uri})


async def subscribe(ctx, params):
    subscribers.setdefault(params.uri, set()).add(ctx.session)
    return {}


async def unsubscribe(_, params):
    subscribers.pop(params.uri, None)
    return {}


async def list_prompts(*_):
    return {"prompts": FIXTURE["prompts"]}


async def get_prompt(ctx, params):
    if params.name in FIXTURE["rounds"]:
        answers = required(ctx, **FIXTURE["rounds"][params.name])
        if "inputRequests" in answers:
            return answers
        contents = text(json.dumps(answers))["content"]
    elif params.name in FIXTURE["messages"]:
        contents = filled(FIXTURE["messages"][params.name], params.arguments or {})
    else:
        raise MCPError(INVALID_PARAMS, f"there is no prompt {params.name}")
    return {"messages": [{"role": "user", "content": it} for it in contents]}


async def complete(_, params):
    values = [it for it in FIXTURE["completions"] if it.startswith(params.argument.value)]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}


async def set_level(*_):
    return {}


def complete_unless_said(handler):
    """The SDK says so only in results of its own types. Results of earlier revisions must not."""

    @functools.wraps(handler)
    async def handle(ctx, params):
        result = await handler(ctx, params)
        return {"resultType": "complete"} | result if ctx.protocol_version == MODERN else result

    return handle


def server() -> Server:
    handlers = dict(
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
        on_set_logging_level=set_level,
    )
    hints = {method: CacheHint(ttl_ms=1000, scope="public") for method in get_args(CacheableMethod)}
    return Server(
        **FIXTURE["server"],
        **{event: complete_unless_said(handler) for event, handler in handlers.items()},
        on_subscriptions_listen=ListenHandler(bus),
        cache_hints=hints,
    )


class Events(EventStore):
    """Events of streams, so that a client can return to one."""

    def __init__(self):
        self.events = []

    async def store_event(self, stream_id, message):
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id, send_callback):
        last = int(last_event_id)
        stream = self.events[last - 1][0]
        for number, (stream_id, message) in enumerate(self.events[last:], last + 1):
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


async def serve_stdio():
    it = server()
    options = it.create_initialization_options(NotificationOptions(True, True, True))
    async with stdio_server() as (incoming, outgoing):
        await it.run(incoming, outgoing, options)


def serve_http():
    app = server().streamable_http_app(event_store=Events(), retry_interval=100)
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", 0))))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    if "--stdio" in sys.argv:
        asyncio.run(serve_stdio())
    else:
        serve_http()
