"""An agent on the Python SDK that calls `echo` and one tool that fails, in a trace of its own, and prints the trace's
name."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from mcp import Client
from opentelemetry import trace

from otel import record


async def main(url: str, collector: str):
    provider = record("agent", collector)
    with trace.get_tracer("agent").start_as_current_span("task") as span:
        async with Client(url) as client:
            await client.call_tool("echo", {"text": "hello"})
            await client.call_tool("test_error_handling", {})
        name = trace.format_trace_id(span.get_span_context().trace_id)
    provider.shutdown()
    print(name)


asyncio.run(main(*sys.argv[1:]))
