"""What compiled Triton kernels take: read off their machine code. None of a training step's spills, contractions apart, and
all of them fit. In processes of their own, since one that interprets kernels cannot compile them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tracefuse.backends.triton.cubin import resources

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

HERE = Path(__file__).parent
REPORT = HERE.parents[1] / "benchmarks" / "gpu_kernels.py"
sys.path.insert(0, str(REPORT.parent))
import gpu_kernels  # noqa: E402


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, str(script), *arguments], env=env, capture_output=True, text=True)


def kernels_of(done: subprocess.CompletedProcess[str]) -> int:
    """How many kernels a report is about."""
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    found = re.search(r"^(\d+) kernels by triton \S+: 0 at fault", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return int(found[1])


def test_registers_and_spills_are_what_the_tool_says():
    done = run(HERE / "triton_resources_worker.py")
    assert done.returncode == 0, done.stderr
    small, large = json.loads(done.stdout)
    assert 0 < small["registers"] < 100 and small["spills"] == 0
    assert large["registers"] == 255 and large["spills"] > 0
    for found in (small, large):
        assert found["tool"] in (None, [found["registers"], found["spills"]])


def test_what_is_no_cubin_is_refused():
    with pytest.raises(ValueError, match="not a 64-bit ELF file"):
        resources(b"PTX")


def test_a_small_training_step_does_not_spill():
    done = run(REPORT, "lstm", "--small", "--capability", "90")
    assert kernels_of(done) >= 6
    assert {"matmul", "pointwise", "reduction"} <= set(re.findall(r"\w+", done.stdout))


def test_the_report_fails_if_kernels_spill_or_do_not_fit(monkeypatch, capsys):
    """Contractions may spill."""

    def report_of(kind: str, what: str, amount: int) -> int:
        def compiled(rows, jobs):
            for row in rows:
                setattr(row, what, amount * (row.kind == kind))

        monkeypatch.setattr(gpu_kernels, "compile_rows", compiled)
        monkeypatch.setattr(sys, "argv", ["gpu_kernels.py", "lstm", "--small", "--capability", "80"])
        return gpu_kernels.main()

    assert report_of("matmul", "spills", 8) == 0
    assert report_of("reduction", "spills", 8) == 1
    assert "on sm_80 spills 8 bytes" in capsys.readouterr().out
    assert report_of("matmul", "shared", 163 * 1024) == 0
    assert report_of("matmul", "shared", 163 * 1024 + 1) == 1
    assert "on sm_80 takes 166913 bytes of shared memory" in capsys.readouterr().out


@pytest.mark.slow
def test_training_steps_of_models_do_not_spill():
    assert kernels_of(run(REPORT)) >= 90
