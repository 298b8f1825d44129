"""The official conformance suite."""

import json
import os
import re
import subprocess
from pathlib import Path

SECS_MAX = 110
SETS = ("2025-11-25", "2026-07-28")
PROGRAM = Path(os.environ["NODE_PATH"]) / "@modelcontextprotocol/conformance/dist/index.js"

# A result: how each check of each scenario ended. A check that a scenario makes several times is numbered.
Results = dict[tuple[str, str], str]


def run_client(command: str, scenario: str, version: str, out: Path) -> Results:
    """What the suite, as a server, finds at a client, check by check."""
    arguments = ["client", "--command", command, "--scenario", scenario, "--spec-version", version, "-o", out]
    done = subprocess.run(["node", PROGRAM, *arguments], capture_output=True, text=True, timeout=SECS_MAX)
    results = read(out)
    assert results, f"the suite found nothing:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return results


def run_scenario(url: str, scenario: str, version: str, out: Path) -> Results:
    """What one scenario of the suite finds at a server, check by check."""
    return _run(url, ["--scenario", scenario, "--spec-version", version, "--force"], out)


def run(url: str, requirements: str, out: Path) -> Results:
    """What the suite finds at a server, check by check."""
    return _run(url, ["--requirements", requirements], out)


def _run(url: str, which: list[str], out: Path) -> Results:
    command = ["node", PROGRAM, "server", "--url", url, *which, "-o", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECS_MAX)
    results = read(out)
    assert results, f"the suite found nothing:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return results


def read(out: Path) -> Results:
    results = {}
    for file in sorted(out.glob("*/checks.json")):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT.*$", "", file.parent.name)
        seen = {}
        for check in json.loads(file.read_text()):
            name = check["id"]
            if check["status"] == "INFO":
                continue  # a note of what passed by, not a check
            seen[name] = seen.get(name, 0) + 1
            number = f"#{seen[name]}" if seen[name] > 1 else ""
            results[scenario, name + number] = check["status"]
    return results


def why(out: Path, scenario: str) -> str:
    """What the suite says about a scenario's checks that did not go well."""
    said = []
    for file in [*out.glob(f"server-{scenario}-[0-9]*/checks.json"), *out.glob(f"{scenario}-[0-9]*/checks.json")]:
        for check in json.loads(file.read_text()):
            if check["status"] not in ("SUCCESS", "INFO"):
                said.append(f"{check['id']}: {check['status']}: {check.get('errorMessage')}")
                said.append(json.dumps(check.get("details"))[:1500])
    return "\n".join(said)
