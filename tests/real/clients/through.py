"""Runs a client of the conformance suite behind two sidecars: the suite is the server.

    through.py <program> [<value>…] <url>
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from mesh import Mesh  # noqa: E402


def main(*command: str) -> int:
    *client, url = command
    parts = urlsplit(url)
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder) / "mesh")
        reached = mesh.reach_http("suite", parts.port, path=parts.path or "/")
        try:
            return subprocess.run([*client, reached], env=os.environ).returncode
        finally:
            mesh.close()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
