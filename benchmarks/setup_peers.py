"""Makes `benchmarks/.peers/`, an environment of its own with the project and the peers of `compare.py` that come from PyPI.

    python benchmarks/setup_peers.py

About 200 MB. SQLite comes with Python; DuckDB and pyarrow (for answers left as columns) are installed.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
PEERS = ["duckdb", "pyarrow"]


def main() -> int:
    """Makes or completes the environment."""
    home = HERE / ".peers"
    if not (home / "bin" / "python").exists():
        venv.create(home, with_pip=True)
    command = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "-e", str(HERE.parent), *PEERS]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
