"""Runs the official array API test suite, `data-apis/array-api-tests`, on tracefuse:

    python tests/array_api/run.py [--compiled] [--examples N] [further arguments of pytest]

The suite is fetched at the commit pinned below and kept in a cache folder; `--suite DIR` (or ARRAY_API_TESTS) names a
checkout instead, with the specification in DIR/array-api. It needs `pip install hypothesis ndindex pytest-json-report`.
Tests in `xfails.txt` are expected to fail, each for the reason written there. `--compiled`: every function goes through
`tracefuse.compile`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

SUITE = ("https://github.com/data-apis/array-api-tests", "55fcc60179efa2680ddd6cd926ddf17b83530e2b")
SPECIFICATION = ("https://github.com/data-apis/array-api", "5f847a3858875c682ae901aa22b0413bf24be9da")
HERE = Path(__file__).resolve().parent
# The modules of the suite whose functions are compiled with --compiled.
COMPILED_MODULES = (
    "operators_and_elementwise_functions", "special_cases", "statistical_functions", "linalg", "fft",
    "manipulation_functions", "indexing_functions", "searching_functions", "sorting_functions", "utility_functions",
)  # fmt: skip


def fetch(source: tuple[str, str], target: Path) -> None:
    """Checks out one commit into `target`, unless it is there."""
    url, commit = source
    if not (target / ".git").exists():
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "init", "-q", str(target)], check=True)
    head = subprocess.run(
        ["git", "-C", str(target), "rev-parse", "-q", "--verify", "HEAD"], capture_output=True, text=True
    )
    if head.stdout.strip() != commit:
        subprocess.run(["git", "-C", str(target), "fetch", "-q", "--depth", "1", url, commit], check=True)
        subprocess.run(["git", "-C", str(target), "checkout", "-q", "--detach", "FETCH_HEAD"], check=True)


def suite_folder(given: str | None) -> Path:
    """The folder of the suite, fetched if none is given. SystemExit with what to do if that fails."""
    if given:
        return Path(given)
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tracefuse" / "array-api-tests"
    try:
        fetch(SUITE, base)
        fetch(SPECIFICATION, base / "array-api")
    except (subprocess.CalledProcessError, OSError) as e:
        sys.exit(f"cannot fetch {SUITE[0]} ({e}); name a checkout with --suite DIR")
    return base


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default=os.environ.get("ARRAY_API_TESTS"), help="a checkout of the suite")
    parser.add_argument("--examples", type=int, default=100, help="examples for each test")
    parser.add_argument("--compiled", action="store_true", help="call every function through tracefuse.compile")
    options, more = parser.parse_known_args()
    missing = [m for m in ("hypothesis", "ndindex", "pytest_jsonreport") if importlib.util.find_spec(m) is None]
    if missing:
        sys.exit(f"the suite needs {', '.join(missing)}: pip install hypothesis ndindex pytest-json-report")
    folder = suite_folder(options.suite)
    module = "tracefuse"
    tests = ["array_api_tests"]
    if options.compiled:
        module = f"exec('import sys; sys.path.insert(0, \"{HERE}\"); from compiled_namespace import xp')"
        tests = [f"array_api_tests/test_{m}.py" for m in COMPILED_MODULES]
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder),
"--disable-deadline", "--max-examples",
        str(options.examples), "--xfails-file", str(HERE / "xfails.txt"), *([] if any("array_api_tests" in a for a in more) else tests), *more,
    ]  # fmt: skip
    return subprocess.run(command, cwd=folder, env=os.environ | {"ARRAY_API_TESTS_MODULE": module}).returncode


if __name__ == "__main__":
    sys.exit(main())
