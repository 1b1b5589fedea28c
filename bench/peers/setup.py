"""Make ``bench/.peers-venv``: the environment in which all contenders of a benchmark run side by side.

Usage: ``python bench/peers/setup.py [--python PYTHON] [--clear] [--index URL]``

It installs the pinned peers and then planish itself, editable and without its dependencies: the runtime needs numpy
alone, and this proves it. Running it again installs the peers only where ``requirements.txt`` has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENT = HERE.parent / ".peers-venv"
REQUIREMENTS = HERE / "requirements.txt"


def interpreter(environment: Path = ENVIRONMENT) -> Path:
    """The Python of the peers' environment."""
    folder = "Scripts" if os.name == "nt" else "bin"
    return environment / folder / "python"


def run(*command: str | Path) -> None:
    """Run a command; end with one sentence when it fails."""
    done = subprocess.run([str(part) for part in command], check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} failed with status {done.returncode}")


def main() -> None:
    """Create the environment where it is missing or out of date."""
    parser = argparse.ArgumentParser(description="Make the environment of the peers that planish is compared with.")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to build it from (default: this one)")
    parser.add_argument("--clear", action="store_true", help="throw the environment away first")
    parser.add_argument("--index", help="one more package index, for example one with CPU-only torch wheels")
    options = parser.parse_args()

    stamp = ENVIRONMENT / "requirements.sha256"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if options.clear:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    python = interpreter()
    if not python.exists():
        run(options.python, "-m", "venv", ENVIRONMENT)
    if not stamp.exists() or stamp.read_text().strip() != digest:
        extra = ["--extra-index-url", options.index] if options.index else []
        run(python, "-m", "pip", "install", "--quiet", *extra, "-r", REQUIREMENTS)
        stamp.write_text(digest + "\n")
    if (ROOT / "pyproject.toml").exists():
        build = ["--no-build-isolation", "--no-deps"]
        run(python, "-m", "pip", "install", "--quiet", *build, "-e", ROOT)
    else:
        print("note: the project has no pyproject.toml yet; the planish rows will be skipped", file=sys.stderr)
    print(f"the peers are ready: {python}")


if __name__ == "__main__":
    main()
