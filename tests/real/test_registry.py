"""The catalogue as an MCP registry: each answer is one by the registry's own description of its API, and a client of
registries that nobody here wrote finds a server, which LangChain then calls."""

import json
import os
import subprocess
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import requests
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7, DRAFT202012

from conftest import HERE
from up import SECS_MAX, Up

SERVERS = ("python", "typescript-modern")
NAME = "tests/python"
VERSIONS = "/v0.1/servers/{serverName}/versions"
VALUES = {"cursor": NAME, "limit": 1, "search": "PYTH", "updated_since": "2025-08-07T13:15:04.280Z", "version": "latest"}


class Place:
    """A control plane that is read as a registry."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.made = Path(os.environ["WEFT_REGISTRY"])
        self.up = Up(folder / "up", {name: name for name in SERVERS})
        operator = json.loads((self.up.folder / ".weft/operator.json").read_text())
        self.url, self.token = operator["server"], operator["token"]
        self.roots = str(self.up.folder / ".weft" / operator["caFile"])

    def get(self, path: str, **query) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.get(f"{self.url}{path}", params=query, headers=headers, verify=self.roots, timeout=10)


@pytest.fixture(scope="module")
def place(request, tmp_path_factory):
    if request.config.getoption("--direct"):
        pytest.skip("there is no catalogue without sidecars")
    place = Place(tmp_path_factory.mktemp("registry"))
    try:
        place.up.known()
        yield place
    finally:
        place.up.close()


@pytest.fixture(scope="module")
def described(place):
    """The registry's description of its API, and how an answer is held against a part of it."""
    api, server = place.made / "openapi.yaml", place.made / "server.schema.json"
    if not api.exists():
        pytest.skip("the descriptions are in a module of Go")
    api = yaml.safe_load(api.read_text())
    schemas = {"urn:api": Resource(api, DRAFT202012), "urn:server": Resource(json.loads(server.read_text()), DRAFT7)}
    registry = Registry().with_resources(schemas.items())

    def hold(answer, *refs: str):
        for ref in refs:
            problems = [it.message for it in Draft202012Validator({"$ref": ref}, registry=registry).iter_errors(answer)]
            assert not problems, f"{ref}: {problems} in {json.dumps(answer)}"

    return api, hold


def hold_list(hold, answer: requests.Response) -> list[dict]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    hold(answer.json(), "urn:api#/components/schemas/ServerList")
    for it in answer.json()["servers"]:
        hold(it["server"], "urn:server")
    return answer.json()["servers"]


def test_every_answer_is_one_by_the_description_of_the_registry(place, described):
    _, hold = described
    servers = hold_list(hold, place.get("/v0.1/servers", limit=100))
    assert [it["server"]["name"] for it in servers] == sorted(f"tests/{name}" for name in SERVERS)
    page = place.get("/v0.1/servers", limit=1)
    assert hold_list(hold, page) == servers[:1]
    rest = place.get("/v0.1/servers", limit=1, cursor=page.json()["metadata"]["nextCursor"])
    assert hold_list(hold, rest) == servers[1:] and "nextCursor" not in rest.json()["metadata"]
    versions = VERSIONS.format(serverName=quote(NAME, safe=""))
    assert hold_list(hold, place.get(versions)) == servers[:1]
    for version in ("latest", servers[0]["server"]["version"]):
        one = place.get(f"{versions}/{quote(version, safe='')}")
        assert one.status_code == 200 and one.json() == servers[0]
        hold(one.json(), "urn:api#/components/schemas/ServerResponse")


def test_every_parameter_of_the_description_is_taken(place, described):
    api, hold = described
    parameters = api["paths"]["/v0.1/servers"]["get"]["parameters"]
    values = VALUES | {it["name"]: "true" for it in parameters if it["schema"]["type"] == "boolean"}
    assert {it["name"] for it in parameters} == values.keys()
    for name, value in values.items():
        hold_list(hold, place.get("/v0.1/servers", **{name: value}))
    assert len(hold_list(hold, place.get("/v0.1/servers", search="PYTH", version="latest"))) == 1
    versions = VERSIONS.format(serverName=quote(NAME, safe=""))
    for path in (versions, f"{versions}/latest"):
        assert place.get(path, include_deleted="true").status_code == 200


def test_what_is_not_there_is_told_as_the_description_says(place, described):
    api, _ = described
    told = api["paths"][f"{VERSIONS}/{{version}}"]["get"]["responses"]["404"]["content"]["application/json"]["schema"]
    for path in ("io.example%2Fnone/versions", "io.example%2Fnone/versions/latest", "tests%2Fpython/versions/none"):
        answer = place.get(f"/v0.1/servers/{path}")
        assert answer.status_code == 404
        Draft202012Validator({**told, "required": ["error"]}).validate(answer.json())


def test_a_client_of_registries_finds_a_server_and_langchain_calls_it(place):
    agent = urlsplit(place.up.all)
    told = {
        "registry": f"{place.url}/v0.1",
        "token": place.token,
        "cache": str(place.folder / "cache"),
        "agent": f"{agent.scheme}://{agent.netloc}",
        "server": NAME,
    }
    command = [place.made / "venv/bin/python", HERE / "clients/registry.py", json.dumps(told)]
    environment = os.environ | {"SSL_CERT_FILE": place.roots}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECS_MAX, env=environment)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["all"] == sorted(f"tests/{name}" for name in SERVERS)
    assert (said["found"], said["versions"]) == ([NAME], [said["server"]["version"]])
    assert said["exact"] and said["official"] and said["missing"] == [True, True]
    assert said["transport"] == "streamable_http"
    assert "echo" in said["tools"] and said["came"] == "hello"
