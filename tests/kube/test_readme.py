"""The README's section on Kubernetes, word by word, on a real API server. What nodes would do is done here: whoever waits for a
control plane gets one that runs, as the release says it."""

import os
import shutil
from pathlib import Path

from charts import ROOT
from cluster import Cluster
from installed import SYSTEM, Installed
from readme import Terminal, section

SECTION = "In a Kubernetes cluster"
ROLLOUT = "rollout status statefulset/"


def test_a_stranger_who_follows_the_readme_comes_to_what_it_says(tmp_path):
    cluster = Cluster(tmp_path / "cluster")
    running, terminal = {}, None
    try:
        cluster.start()
        tools = tmp_path / "bin"
        tools.mkdir()
        for name, program in (("helm", os.environ["WEFT_HELM"]), ("kubectl", shutil.which("kubectl"))):
            (tools / name).symlink_to(Path(program).resolve())
        environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "KUBECONFIG": str(cluster.kubeconfig)}
        # Helm's own folders, and nobody's.
        environment["HOME"] = str(tmp_path)
        terminal = Terminal(folder=ROOT, environment=environment)
        for block in section(SECTION):
            for step in block:
                if ROLLOUT in step.command:
                    suffix = step.command.split("weft-control-plane")[1]
                    release = suffix.removeprefix("-") or "weft"
                    running[release] = Installed(cluster, tmp_path / release, release)
                    cluster.runs(f"weft-control-plane{suffix}-0", SYSTEM)
                terminal.take(step)
    finally:
        if terminal:
            terminal.close()
        for it in running.values():
            it.process.stop()
        cluster.stop()
