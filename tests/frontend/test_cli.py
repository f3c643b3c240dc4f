"""The command line, mostly in this process; the demo and the installed script in processes of their own."""

import json
import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from tracefuse.frontend import cli, demo
from tracefuse.frontend.export import export

import tracefuse as tr
from tracefuse import nn


def run(capsys, *arguments):
    """(status, stdout, stderr)"""
    status = cli.main(list(map(str, arguments)))
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.fixture
def program(tmp_path):
    tr.manual_seed(0)
    net = nn.Linear(4, 2)
    path = tmp_path / "net.tfx"
    export(net, (tr.rand(3, 4),), dynamic={"input": {0: "batch"}}).save(path)
    return net, path


def test_the_script_is_installed():
    (entry,) = [e for e in metadata.entry_points(group="console_scripts") if e.name == "tracefuse"]
    assert entry.load() is cli.main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as e:
        cli.main(["--help"])
    assert e.value.code == 0
    text = capsys.readouterr().out
    for command in ("demo", "bench", "explain", "run", "view", "cache", "doctor"):
        assert command in text
    with pytest.raises(SystemExit) as e:
        cli.main([])
    assert e.value.code == 2


def test_bench(capsys):
    status, out, _ = run(capsys, "bench", "mlp_step", "--seconds", 0.05)
    assert status == 0 and "mlp_step" in out and "speedup" in out
    status, out, _ = run(capsys, "bench", "mlp_step", "--seconds", 0.05, "--json")
    found = json.loads(out)
    assert status == 0 and found["mlp_step"]["speedup"] > 0 and found["mlp_step"]["max_rel_error"] < 1e-4
    status, _, err = run(capsys, "bench", "nothing")
    assert status == 2 and "there is no workload 'nothing'" in err and "gelu_chain" in err


def test_explain(capsys, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import tracefuse as tr\ndef f(x, k):\n    return tr.exp(x) * k\nnumber = 3\n")
    status, out, _ = run(capsys, "explain", f"{file}:f", "--args", "tr.rand(4, 4), 2.0")
    assert status == 0 and "captured graph" in out and "exp" in out and "mine.py:3" in out
    status, out, _ = run(capsys, "explain", f"{file}:f", "--args", "tr.rand(4, 4), 2.0", "--summary")
    assert status == 0 and "captured graph" not in out and "1 kernels" in out
    status, out, _ = run(capsys, "explain", f"{file}:f", "--args", "tr.rand(4, 4), 2.0", "--html", f"{tmp_path}/f.html")
    assert status == 0 and (tmp_path / "f.html").read_text().startswith("<!doctype html>")
    status, out, _ = run(capsys, "explain", f"{file}:f", "--args", "tr.rand(4, 4), 2.0", "--json")
    assert json.loads(out)["traces"][0]["kernels"]


@pytest.mark.parametrize(
    "target, message",
    [
        ("nothing", "not of the form"),
        ("no_such_module:f", "can't import no_such_module"),
        ("no_such_file.py:f", "there is no file"),
        ("math:nothing", "math has no nothing"),
        ("math:pi", "not a function"),
    ],
)
def test_explain_says_what_it_cannot_find(capsys, target, message):
    status, _, err = run(capsys, "explain", target)
    assert status == 2 and message in err


def test_explain_of_bad_arguments(capsys):
    status, _, err = run(capsys, "explain", "math:sin", "--args", "1 +")
    assert status == 2 and "SyntaxError" in err


def test_run_and_view(capsys, program, tmp_path):
    net, path = program
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    status, _, _ = run(capsys, "run", path, tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert status == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), np.asarray(net(tr.tensor(x)).detach()), rtol=1e-5, atol=1e-6
    )
    status, out, _ = run(capsys, "run", path, tmp_path / "x.npy")
    assert status == 0 and out.startswith("[[")
    status, out, _ = run(capsys, "run", path, tmp_path / "x.npy", "--output", tmp_path / "y.npz")
    assert status == 0 and np.load(tmp_path / "y.npz")["output0"].shape == (5, 2)
    status, out, _ = run(capsys, "view", path)
    assert status == 0 and "f32[batch, 4]" in out and "matmul" in out


def test_run_says_what_is_wrong(capsys, program, tmp_path):
    _, path = program
    np.save(tmp_path / "x.npy", np.zeros((5, 3), np.float32))
    (tmp_path / "bad.tfx").write_bytes(path.read_bytes()[:200])
    for arguments, message in (
        ((path,), "takes 1 inputs (input: f32[batch, 4]), not 0"),
        ((path, tmp_path / "x.npy"), "must be a tensor f32[batch, 4]"),
        ((path, tmp_path / "none.npy"), "can't read"),
        ((path, "a b"), "neither a .npy file nor a Python literal"),
        ((tmp_path / "bad.tfx",), "bad.tfx"),
        ((tmp_path / "none.tfx",), "No such file"),
    ):
        status, _, err = run(capsys, "run", *arguments)
        assert status == 2 and message in err and "Traceback" not in err


def test_cache(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACEFUSE_CACHE_DIR", str(tmp_path))
    tr.compile(lambda x: x * 3 + 1)(tr.rand(7))
    status, out, _ = run(capsys, "cache")
    assert status == 0 and str(tmp_path) in out and " 0 entries" not in out
    status, out, _ = run(capsys, "cache", "--clear")
    assert status == 0 and out.startswith("removed")
    assert " 0 entries" in run(capsys, "cache")[1]
    monkeypatch.setenv("TRACEFUSE_CACHE_DIR", "off")
    assert "switched off" in run(capsys, "cache")[1]


def test_doctor(capsys):
    status, out, _ = run(capsys, "doctor")
    assert status == 0, out
    for word in ("python", "llvmlite", "isa", "threads", "entry", "cache", "TRACEFUSE_NUM_THREADS", "works here"):
        assert word in out
    status, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert found["ok"] and found["threads"]["used"] >= 1
    assert found["entry"]["native"] or found["entry"]["why_not"]


KEYS = """speedup ms_per_step_eager ms_per_step_compiled accuracy_eager accuracy_compiled max_loss_rel_diff cold_compile_s
warm_start_s versions machine""".split()


def demo_process(tmp_path, *arguments):
    environment = {**os.environ, "TRACEFUSE_CACHE_DIR": str(tmp_path / "unused")}
    return subprocess.run(
        [sys.executable, "-m", "tracefuse.frontend.cli", "demo", *arguments],
        capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip


def test_demo_json(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    done = demo_process(tmp_path, "--epochs", "1", "--json", "--output", "out.png")
    assert done.returncode == 1, done.stderr  # one epoch is not enough for the accuracy that is asked for
    found = json.loads(done.stdout)
    assert set(KEYS) <= found.keys()
    assert found["max_loss_rel_diff"] < 1e-4 and found["speedup"] > 1
    assert found["accuracy_eager"] == found["accuracy_compiled"] == found["accuracy_exported"] > 0.5
    assert all("of the test digits" in p for p in found["problems"]) and not found["ok"]
    assert found["warm_start_s"] > 0 and found["cold_compile_s"] > 0 and found["steps"] == 22
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "out.tfx").exists()
    assert not (tmp_path / "unused").exists()
    assert "epoch" in done.stderr


@pytest.mark.slow
def test_demo(tmp_path):
    done = demo_process(tmp_path, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test accuracy" in done.stdout and "speedup" in done.stdout and done.stderr == ""


def test_demo_without_its_extra_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    status, _, err = run(capsys, "demo")
    assert status == 2 and "pip install 'tracefuse[demo]'" in err


def test_demo_fails_when_losses_or_accuracy_are_off():
    good = dict(max_loss_rel_diff=1e-6, accuracy_eager=0.98, accuracy_compiled=0.98, accuracy_exported=0.98)
    assert demo._problems(good) == []
    assert "losses differ" in demo._problems({**good, "max_loss_rel_diff": 2e-4})[0]
    assert "losses differ" in demo._problems({**good, "max_loss_rel_diff": float("nan")})[0]
    assert "compiled net" in demo._problems({**good, "accuracy_compiled": 0.9})[0]


def test_demo_refuses_what_it_cannot_do(capsys):
    status, _, err = run(capsys, "demo", "--epochs", 0)
    assert status == 2 and "--epochs" in err
    status, _, err = run(capsys, "demo", "--output", "/no/such/folder/x.png")
    assert status == 2 and "does not exist" in err
