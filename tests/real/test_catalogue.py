"""The catalogue knows what servers on official SDKs offer, whatever the era and the transport of each."""

import json

import pytest
import requests

from conftest import HERE
from processes import eventually
from up import SECS_MAX, Up

FIXTURE = json.loads((HERE / "servers/fixture.json").read_text())
SERVERS = (
    *("python", "typescript-legacy", "typescript-modern"),
    *("python-stdio", "typescript-legacy-stdio", "typescript-modern-stdio"),
)


@pytest.fixture(scope="module")
def up(parts, tmp_path_factory):
    if parts.is_direct:
        pytest.skip("there is no catalogue without sidecars")
    up = Up(tmp_path_factory.mktemp("up"), {name: name for name in SERVERS})
    yield up
    up.close()


@pytest.mark.parametrize("server", SERVERS)
def test_everything_that_a_server_offers_is_in_the_catalogue(up, server):
    items = eventually(lambda: up.items(server), within=SECS_MAX)
    of = lambda kind: {name for found, name in items if found == kind}  # noqa: E731
    assert {it["name"] for it in FIXTURE["tools"]} <= of("tool")
    assert {it["name"] for it in FIXTURE["prompts"]} <= of("prompt")
    assert {it["uri"] for it in FIXTURE["resources"]} <= of("resource")
    assert {it["uriTemplate"] for it in FIXTURE["templates"]} <= of("template")
    assert all((it["instances"], it["agreeing"]) == (1, 1) for it in items.values())


def test_words_find_it_and_a_registry_client_reads_it(up):
    for server in SERVERS:
        eventually(lambda: up.items(server), within=SECS_MAX)
    found = json.loads(up.weft("tools", "search", "embedded", "resource", "--kind", "prompt", "-o", "json"))
    assert {it["name"] for it in found["items"][: len(SERVERS)]} == {"test_prompt_with_embedded_resource"}
    operator = json.loads((up.folder / ".weft/operator.json").read_text())
    answer = requests.get(
        f"{operator['server']}/v0.1/servers",
        params={"limit": 100},
        headers={"Authorization": f"Bearer {operator['token']}"},
        verify=str(up.folder / ".weft" / operator["caFile"]),
        timeout=10,
    )
    servers = {it["server"]["name"]: it["server"] for it in answer.json()["servers"]}
    assert {f"tests/{name}" for name in SERVERS} <= servers.keys()
    assert servers["tests/python"]["version"] == FIXTURE["server"]["version"]
