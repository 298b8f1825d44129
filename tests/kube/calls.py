"""Calls of agents in pods."""

import json
import urllib.request


def call(agent, server: str, tool: str, arguments: dict, within: float = 30) -> dict:
    """What an agent is answered that calls a tool of a server in `library` through the sidecar of its own pod."""
    body = {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": tool, "arguments": arguments, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }},
    }
    done = agent.inside(
        "curl", "-sS", "--max-time", str(within), f"http://127.0.0.1:7400/servers/library/{server}/mcp",
        "-H", "Content-Type: application/json", "-H", "Accept: application/json, text/event-stream",
        "-H", "MCP-Protocol-Version: 2026-07-28", "-H", "Mcp-Method: tools/call", "-H", f"Mcp-Name: {tool}",
        "-d", json.dumps(body), within=within + 5,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def text(answer: dict) -> str:
    assert "result" in answer, answer
    return answer["result"]["content"][0]["text"]


def is_busy(pod) -> bool:
    """Whether a call is under way in the sidecar of a pod."""
    with urllib.request.urlopen(f"http://{pod.address}:7401/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return any(it.startswith("weft_sidecar_in_flight{") and not it.endswith(" 0") for it in lines)
