"""`weft up`: a whole mesh in one process, as a newcomer starts it."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import requests

import control_plane
from backend import Jaeger

START_SECS_MAX = 40


class Up:
    """`weft up` in a folder, until its block ends."""

    def __init__(self, folder: Path, *flags: str):
        doors = ["--listen-sidecars", "--listen-operators", "--listen-health", "--listen-agent"]
        ports = [word for door in doors for word in (door, "127.0.0.1:0")]
        command = [os.environ["WEFT_BIN"], "up", *ports, *flags]
        self.folder = folder
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=self.log, text=True, start_new_session=True
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def said_until(self, pattern: str) -> str:
        """What was said up to a line with `pattern`."""
        said = ""
        while True:
            line = self.lines.get(timeout=START_SECS_MAX)
            assert line is not None, f"it ended:\n{said}\n{(self.folder / 'log').read_text()}"
            said += line
            if re.search(pattern, line):
                return said

    def weft(self, *words: str, stdin: str = "") -> str:
        """Runs a command in the folder of the mesh, as in another terminal."""
        command = [os.environ["WEFT_BIN"], *words]
        ran = subprocess.run(command, cwd=self.folder, input=stdin, capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, f"{words}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def in_sync(self, *nodes: str) -> bool:
        """Whether these are the sidecars, and each has acknowledged the newest change."""
        items = json.loads(self.weft("status", "--check", "--wait", "10s", "-o", "json"))["items"]
        return sorted(it["node"] for it in items) == sorted(nodes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.log.close()


def children(pid: int) -> list[int]:
    """Everyone below a process."""
    below = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            below += [int(child), *children(int(child))]
    return below


def call(url: str, tool: str, arguments: dict, headers: dict | None = None) -> requests.Response:
    """Calls a tool as a client of 2026-07-28 does."""
    return ask(url, "tools/call", tool, {"name": tool, "arguments": arguments}, headers)


def tools(url: str) -> list[str]:
    """The tools that a client is shown, by name."""
    return [tool["name"] for tool in ask(url, "tools/list", None, {}).json()["result"]["tools"]]


def ask(url: str, method: str, target: str | None, params: dict, more: dict | None = None) -> requests.Response:
    revision = "2026-07-28"
    meta = {
        "io.modelcontextprotocol/protocolVersion": revision,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": method,
        "params": {**params, "_meta": meta},
    }
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": revision,
        "Mcp-Method": method,
        **(more or {}),
    }
    if target:
        headers["Mcp-Name"] = target
    session = requests.Session()
    session.trust_env = False
    return session.post(url, json=message, headers=headers, timeout=20)


def test_a_newcomer_sees_one_call_succeed_and_one_refused_and_nothing_is_left_behind(tmp_path):
    with Up(tmp_path) as up:
        said = up.said_until("delete_everything")
        assert "Hello, you!" in said
        assert re.search(r"delete_everything.*refused", said)
        url = re.search(r'"url": "(.+/servers/demo/example/mcp)"', said).group(1)
        added = call(url, "add", {"a": 1, "b": 2})
        assert added.json()["result"]["content"][0]["text"] == "3"
        refused = call(url, "delete_everything", {})
        assert (refused.status_code, refused.headers["weft-reason"]) == (403, "denied")

        status = [os.environ["WEFT_BIN"], "status"]
        shown = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.count("synced") >= 2

        below = children(up.process.pid)
        assert below, "the example server is a process"
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(20) == 0
        gone = lambda: not [pid for pid in below if Path(f"/proc/{pid}").exists()]  # noqa: E731
        control_plane.eventually(gone, within=10)


def server(name: str, account: str = "") -> str:
    """A server as it is applied: the example, by another name."""
    spec = {"stdio": {"command": os.environ["WEFT_BIN"], "args": ["example-server"]}}
    if account:
        spec["serviceAccount"] = account
    metadata = {"namespace": "demo", "name": name}
    return json.dumps({"apiVersion": "weft.dev/v1alpha1", "kind": "McpServer", "metadata": metadata, "spec": spec})


CLEANERS = """
apiVersion: weft.dev/v1alpha1
kind: AccessPolicy
metadata: { namespace: demo, name: cleaners }
spec:
  servers: { names: [example] }
  rules: [{ action: allow, from: [{ namespaces: [local] }], to: [{ tools: ["delete_*"] }] }]
"""


def test_every_sidecar_follows_a_policy_that_is_applied_and_the_status_says_so(tmp_path):
    with Up(tmp_path) as up:
        said = up.said_until("demo/example: ready")
        url = re.search(r'"url": "(.+)"', said).group(1)
        assert call(url, "delete_everything", {}).status_code == 403
        up.weft("apply", "-f", "-", stdin=CLEANERS)
        assert up.in_sync("demo/example-up", "local/agent")
        assert call(url, "delete_everything", {}).status_code == 200
        up.weft("rollback", "3", "--yes")
        assert up.in_sync("demo/example-up", "local/agent")
        assert call(url, "delete_everything", {}).status_code == 403


def of_the_tour(file: str) -> str:
    """What the tour writes into a file."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    return re.search(rf"cat > {re.escape(file)} <<'(YAML|PY)'\n(.+?)\1\n", readme, re.DOTALL).group(2)


def test_the_tour_shows_a_tool_to_one_agent_and_hides_it_from_another(tmp_path):
    with Up(tmp_path, "--agent", "cleaner") as up:
        said = up.said_until("demo/example: ready")
        url = re.search(r'"url": "(.+)"', said).group(1)
        address = re.search(r"local/cleaner +(http://[0-9.:]+)/servers", said).group(1)
        cleaner = re.sub(r"http://[0-9.:]+", address, url)
        assert cleaner != url
        hidden = "delete_everything"
        assert call(cleaner, "greet", {}).status_code == 404, "whom no rule names is not told that there is a server"
        up.weft("apply", "-f", "-", stdin=of_the_tour("cleaner.yaml"))
        assert up.in_sync("demo/example-up", "local/agent", "local/cleaner")
        assert tools(url) == ["greet", "add", "count"]
        assert tools(cleaner) == ["greet", hidden]
        assert call(cleaner, hidden, {}).status_code == 200
        assert call(url, hidden, {}).status_code == 403
        why = lambda who: up.weft("explain", "--as", f"local/{who}", "--tool", f"demo/example/{hidden}")  # noqa: E731
        assert why("cleaner").startswith("allowed: the rule demo/cleaner#0")
        assert why("agent").startswith("refused: ")
        identities = up.weft("who-can", f"demo/example/{hidden}")
        assert re.search(r"sa/cleaner +yes", identities), identities
        assert re.search(r"sa/agent +no", identities), identities


def test_the_tour_refuses_by_argument_limits_and_withholds_until_it_is_approved(tmp_path):
    with Up(tmp_path) as up:
        said = up.said_until("demo/example: ready")
        url = re.search(r'"url": "(.+)"', said).group(1)
        up.weft("apply", "-f", "-", stdin=of_the_tour("finer.yaml"))
        assert up.in_sync("demo/example-up", "local/agent")
        assert call(url, "add", {"a": 2, "b": 3}).status_code == 200
        refused = call(url, "add", {"a": 2000, "b": 3})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, 4030)
        why = ["explain", "--as", "local/agent", "--tool", "demo/example/add", "--args", '{"a":2000,"b":3}']
        assert "demo/small-sums#no-large-sums denies it" in up.weft(*why)
        assert "with some arguments" in up.weft("who-can", "demo/example/add")

        greetings = [call(url, "greet", {"name": "you"}) for _ in range(3)]
        assert [it.status_code for it in greetings] == [200, 200, 429]
        told = greetings[2].json()["error"]
        assert (told["code"], told["data"]["limit"]) == (4290, "demo/fair#greetings")
        assert 1 <= int(greetings[2].headers["Retry-After"]) <= 30

        assert call(url, "count", {"to": 2}).status_code == 403
        control_plane.eventually(lambda: "count" in up.weft("tools", "list"), within=20)
        assert "greet" in up.weft("tools", "search", "greet", "somebody").splitlines()[1]
        assert "Counts, and reports its progress" in up.weft("tools", "show", "demo/example/count")
        assert "# count new" in up.weft("tools", "diff", "demo/example")
        assert "toolpolicy/demo/checked changed" in up.weft("tools", "approve", "demo/example", "--all")
        control_plane.eventually(lambda: call(url, "count", {"to": 2}).status_code == 200, within=20)

        # The second and the third sum of the day; the mesh is killed, and what was spent stays spent.
        for n in (2, 3):
            assert call(url, "add", {"a": n, "b": n}).status_code == 200
    with Up(tmp_path) as up:
        said = up.said_until("demo/example: ready")
        url = re.search(r'"url": "(.+)"', said).group(1)

        # Nobody lends before the sidecar has found its control plane.
        control_plane.eventually(lambda: call(url, "add", {"a": 4, "b": 4}).status_code == 200, within=20)
        spent = call(url, "add", {"a": 5, "b": 5}).json()["error"]
        assert (spent["code"], spent["data"]["limit"]) == (4291, "demo/fair#sums")
        why = ["explain", "--as", "local/agent", "--tool", "demo/example/add", "--args", '{"a":5,"b":5}']
        assert "demo/fair#sums" in up.weft(*why)


def test_a_server_that_is_applied_later_is_served_and_one_that_is_deleted_is_refused(tmp_path):
    with Up(tmp_path) as up:
        said = up.said_until("demo/example: ready")
        url = re.search(r'"url": "(.+)"', said).group(1).replace("example", "later")
        up.weft("apply", "-f", "-", stdin=server("later"))
        assert url in up.said_until("demo/later: ready")
        control_plane.eventually(lambda: call(url, "greet", {"name": "you"}).status_code == 200, within=20)
        control_plane.eventually(lambda: up.in_sync("demo/example-up", "demo/later-up", "local/agent"), within=20)

        # By another identity it is another sidecar, which takes the place of the first.
        up.weft("apply", "-f", "-", stdin=server("later", account="other"))
        renamed = lambda: "/sa/other" in up.weft("status") and call(url, "greet", {}).status_code == 200  # noqa: E731
        control_plane.eventually(renamed, within=20)

        up.weft("delete", "mcpserver", "demo/later")
        up.said_until("demo/later: gone")
        refused = call(url, "greet", {})
        assert (refused.status_code, refused.headers["weft-reason"]) == (404, "unknown_server")
        assert 'no server "demo/later"' in refused.json()["error"]["message"]
        assert "demo/later" in up.said_until("refused tools/call greet: unknown_server")
        control_plane.eventually(lambda: up.in_sync("demo/example-up", "local/agent"), within=20)


def test_a_server_that_does_not_start_is_named_with_its_reason_and_harms_no_other(tmp_path):
    with Up(tmp_path) as up:
        url = re.search(r'"url": "(.+)"', up.said_until("demo/example: ready")).group(1)
        broken = server("broken").replace(os.environ["WEFT_BIN"], "/nowhere/to/be/found")
        up.weft("apply", "-f", "-", stdin=broken)
        assert "/nowhere/to/be/found" in up.said_until("demo/broken: failing: ").splitlines()[-1]
        assert call(url, "greet", {}).status_code == 200
        assert call(url.replace("example", "broken"), "greet", {}).status_code == 503
        up.said_until("demo/broken: failed tools/call greet: child_busy")


def test_the_tour_shows_a_trace_that_crosses_both_sidecars(tmp_path):
    jaeger = Jaeger(tmp_path)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    promised = re.search(r"\$ python3 tree.py \S+ \$trace\n(.+?)```", readme, re.DOTALL).group(1)
    try:
        with Up(tmp_path) as up:
            url = re.search(r'"url": "(.+)"', up.said_until("demo/example: ready")).group(1)
            traces = of_the_tour("traces.yaml")
            assert "http://127.0.0.1:4317" in traces
            up.weft("apply", "-f", "-", stdin=traces.replace("http://127.0.0.1:4317", jaeger.grpc))
            assert up.in_sync("demo/example-up", "local/agent")
            trace = "5f467fe7bf42676c05e20ba4a90e448e"
            call(url, "greet", {"name": "you"}, {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
            (tmp_path / "tree.py").write_text(of_the_tour("tree.py"))
            show = [sys.executable, tmp_path / "tree.py", jaeger.query, trace]
            told = lambda: subprocess.run(show, capture_output=True, text=True, timeout=30).stdout  # noqa: E731
            # How long it takes differs, and parts that took no moment are no spans.
            parts = re.compile(r"^ *\S+: (queue|upstream|bridge), .*\n", re.MULTILINE)
            way = lambda text: re.sub(r"\d+ µs", "", parts.sub("", text))  # noqa: E731
            assert len(way(promised).splitlines()) == 2
            control_plane.eventually(lambda: way(told()) == way(promised), within=30)

            # A refused call is found although only one of a hundred is sampled.
            assert call(url, "delete_everything", {}).status_code == 403
            wanted = {"service": "local/agent", "tags": json.dumps({"error": "true"}), "lookback": "1h", "limit": 20}
            refused = lambda: [  # noqa: E731
                span["operationName"] for it in jaeger.ask("traces", **wanted) for span in it["spans"]
            ]
            control_plane.eventually(lambda: "tools/call delete_everything" in refused(), within=30)
    finally:
        jaeger.close()


def targets_file(home: Path) -> Path:
    return home / ".weft" / "targets" / "prometheus.json"


def targets(home: Path) -> set[str]:
    """The sidecars among what Prometheus is told to scrape."""
    groups = json.loads(targets_file(home).read_text())
    return {host for group in groups if group["labels"]["job"] == "weft-sidecar" for host in group["targets"]}


def test_each_sidecar_serves_its_metrics_where_the_file_says_and_comes_back_when_told_to_quit(tmp_path):
    with Up(tmp_path) as up:
        url = re.search(r'"url": "(.+)"', up.said_until("demo/example: ready")).group(1)
        file = tmp_path / ".weft" / "sidecars.json"
        read = lambda: json.loads(file.read_text())  # noqa: E731
        control_plane.eventually(lambda: len(read()) == 2, within=10)
        before = read()
        hosts = {it["metrics"].split("/")[2] for it in before.values()}
        control_plane.eventually(lambda: targets_file(tmp_path).exists() and targets(tmp_path) == hosts, within=10)
        metrics = requests.get(before["demo/example-up"]["metrics"], timeout=10).text
        assert re.search(r'weft_sidecar_requests_total\{.*server="demo/example".*reason="denied"\} 1', metrics)
        for node in before:
            assert requests.get(before[node]["health"], timeout=10).status_code == 200
            assert requests.get(before[node]["admin"] + "/config_dump", timeout=10).status_code == 200
            requests.post(before[node]["admin"] + "/quitquitquit", timeout=10)
        renewed = lambda: len(read()) == 2 and all(  # noqa: E731
            read()[node]["admin"] != before[node]["admin"] for node in before
        )
        control_plane.eventually(renewed, within=20)
        served = lambda: call(url, "greet", {}).status_code == 200  # noqa: E731
        control_plane.eventually(served, within=20)
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(20) == 0
        assert not file.exists() and not targets_file(tmp_path).exists(), "nobody listens there any more"


def test_a_mesh_that_is_started_again_serves_at_once(tmp_path):
    for start in range(2):
        with Up(tmp_path) as up:
            url = re.search(r'"url": "(.+)"', up.said_until("demo/example: ready")).group(1)
            assert call(url, "greet", {}).status_code == 200, f"start {start}"
            up.process.send_signal(signal.SIGTERM)
            assert up.process.wait(20) == 0


def test_the_servers_of_a_desktop_client_are_served(tmp_path):
    config = tmp_path / "desktop.json"
    weft = os.environ["WEFT_BIN"]
    config.write_text('{"mcpServers": {"My Tools": {"command": "%s", "args": ["example-server"]}}}' % weft)
    with Up(tmp_path, "-f", str(config)) as up:
        said = up.said_until(r'"url": ')
        url = re.search(r'"url": "(.+)"', said).group(1)
        assert url.endswith("/servers/local/my-tools/mcp")
        assert call(url, "greet", {"name": "Ada"}).json()["result"]["content"][0]["text"] == "Hello, Ada!"
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(20) == 0
