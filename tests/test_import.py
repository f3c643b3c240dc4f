"""`import tracefuse` is quick: nothing heavy comes along."""

import json
import subprocess
import sys

HEAVY = (
    "llvmlite", "networkx", "triton", "torch", "scipy", "matplotlib", "sklearn", "safetensors", "cuda", "pandas", "numba",
    "sympy", "asyncio", "multiprocessing", "concurrent", "unittest",
)  # fmt: skip
SCRIPT = """
import json, sys, time
import numpy, ml_dtypes
before = set(sys.modules)
start = time.perf_counter()
import tracefuse
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "new": sorted(set(sys.modules) - before)}))
"""


def measure():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_is_light(record_property):
    run = measure()
    new = run["new"]
    record_property("seconds", run["seconds"])
    record_property("modules", len(new))
    print(f"import tracefuse: {run['seconds'] * 1e3:.0f} ms beyond numpy, {len(new)} modules")
    assert not [m for m in new if m.split(".")[0] in HEAVY]
    assert len(new) < 200
    assert not any("backends" in m or m.startswith("tracefuse.runtime") for m in new)


def test_lazy_names_are_all_there():
    import tracefuse as tr

    for name in dir(tr):
        getattr(tr, name)
