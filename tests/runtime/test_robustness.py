"""Bad input and bad surroundings: a clear Python exception or the right result, never a crash, never a wrong result."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tracefuse.frontend.nn import functional as F
from tracefuse.ir.dtypes import float32
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.types import TensorType
from tracefuse.runtime import cache as cache_module
from tracefuse.runtime import executable as executable_module
from tracefuse.runtime.executable import build

import tracefuse as tr
from tracefuse import nn, optim

PROGRAM = """
    import numpy as np
    import tracefuse as tr

    @tr.compile(fullgraph=True)
    def f(x, y):
        return tr.tanh(x @ y).sum(0) * 1.5

    x = tr.tensor(np.linspace(-1, 1, 12 * 17).reshape(12, 17).astype(np.float32))
    want = np.tanh(x.numpy() @ x.numpy().T).sum(0) * 1.5
    np.testing.assert_allclose(f(x, x.T).numpy(), want, rtol=1e-5, atol=1e-5)
    assert f.cache_info()["eager"] == 0
    print("right")
"""


def start(folder: Path, program: str, **env: str) -> subprocess.Popen:
    """The program in a new process. It is a file, as capture reads the source."""
    file = folder / f"program_{time.monotonic_ns()}.py"
    file.write_text(textwrap.dedent(program))
    given = os.environ | {"TRACEFUSE_CACHE_DIR": str(folder / "cache")} | env
    return subprocess.Popen(
        [sys.executable, str(file)], env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """(exit status, stdout, stderr)"""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def run(folder: Path, program: str = PROGRAM, **env: str) -> str:
    """What the program prints; it must succeed."""
    status, out, err = finish(start(folder, program, **env))
    assert status == 0, err
    return out


def objects(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "cache" / "objects").rglob("*") if p.is_file())


# ------------------------------------------------------------------ bad arguments


def combined(a, b):
    return (a * 2 + b).sum()


ROW = tr.ones((3, 4))
BAD_ARGUMENTS = {
    "shapes": (ROW, tr.ones(5), ValueError, r"3, 4.*5"),
    "objects": (np.array([object()] * 4), ROW, TypeError, "object"),
    "long double": (np.ones(4, np.longdouble), ROW, TypeError, str(np.dtype(np.longdouble))),
    "structured": (np.zeros(4, [("a", "f4")]), ROW, TypeError, "f4"),
    "dates": (np.zeros(4, "M8[s]"), ROW, TypeError, "M8|datetime"),
    "text": ("a", ROW, TypeError, "str"),
    "nothing": (None, ROW, TypeError, "NoneType"),
    "a dict": ({"a": 1}, ROW, TypeError, "dict"),
    "a number too large": (tr.ones(3, dtype=tr.int8), 1000, OverflowError, "1000.*int8"),
    "no common type": (tr.ones(3, dtype=tr.int64), tr.ones(3, dtype=tr.uint64), TypeError, "int64 and uint64"),
    "ragged": ([[1, 2], [3]], ROW, ValueError, "inhomogeneous"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_raise_the_same_compiled_or_not(name):
    a, b, error, match = BAD_ARGUMENTS[name]
    compiled = tr.compile(combined)
    for f in (combined, compiled, compiled):
        with pytest.raises(error, match=match), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            f(a, b)
    good = tr.compile(combined)
    good(ROW, ROW)
    with pytest.raises(error, match=match):
        good(a, b)
    assert float(good(ROW, ROW)) == 36


UNUSUAL = {
    "byte-swapped": (np.arange(12, dtype=">f4").reshape(3, 4), np.ones((3, 4), np.float32)),
    "byte-swapped integers": (np.arange(4, dtype=">i8"), np.ones((3, 4), np.int64)),
    "empty": (np.ones((0, 4), np.float32), np.ones(4, np.float32)),
    "empty in the middle": (np.ones((2, 0, 3), np.float32), np.ones((1, 1, 3), np.float32)),
    "64 dimensions": (np.ones((1,) * 64, np.float32), np.ones((), np.float32)),
    "64 dimensions with sizes": (np.ones((2,) * 3 + (1,) * 58 + (2,) * 3, np.float32), np.ones((2,), np.float32)),
    "0-d": (np.float32(3), np.ones((), np.float32)),
}


@pytest.mark.filterwarnings("ignore::tracefuse.frontend.compile.CaptureWarning")
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_arrays(name):
    a, b = UNUSUAL[name]
    want = combined(np.asarray(a), b)
    for wrap in (tr.tensor, lambda v: v):
        for f in (combined, tr.compile(combined)):
            got = f(wrap(a), wrap(b))
            np.testing.assert_allclose(np.asarray(got), want)


DTYPES = [np.bool_, np.int8, np.uint16, np.int64, np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
ARRAYS = st.builds(
    lambda shape, dtype, order, swap: np.ones(shape, dtype, order=order).astype(np.dtype(dtype).newbyteorder(swap)),
    st.lists(st.integers(0, 3), max_size=4).map(tuple),
    st.sampled_from([d for d in DTYPES if d is not ml_dtypes.bfloat16]),
    st.sampled_from("CF"),
    st.sampled_from("=S"),
)


def outcome(f, *args):
    """The result's type, shape and values, or the type of the exception."""
    try:
        out = f(*args)
    except Exception as e:
        return type(e)
    array = np.asarray(out)
    return array.dtype, array.shape, np.round(array.astype(np.float64), 1).tolist()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(a=ARRAYS, b=ARRAYS, tensors=st.booleans())
def test_any_arrays_are_treated_as_in_plain_python(a, b, tensors):
    if tensors:
        a, b = tr.tensor(a), tr.tensor(b)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        assert outcome(tr.compile(combined), a, b) == outcome(combined, a, b)


def doubled_graph():
    b = GraphBuilder("doubled")
    with b:
        x = b.input(TensorType(float32, (3, 4)))
        out = tr_add(x, x)
    return b.finish((out,))


def tr_add(x, y):
    from tracefuse.ir.ops import add

    return add(x, y)


@pytest.mark.parametrize(
    "bad, error",
    [
        (np.ones((3, 5), np.float32), ValueError),
        (np.ones((3, 4), np.float64), TypeError),
        (np.ones(12, np.float32), ValueError),
        (np.ones((3, 4), ">f4"), TypeError),
        ([1, 2], (TypeError, AttributeError)),
    ],
)
def test_an_executable_refuses_what_it_was_not_compiled_for(bad, error):
    executable = build(doubled_graph())
    with pytest.raises(error):
        executable.run([bad])
    with pytest.raises(ValueError):
        executable.run([])
    with pytest.raises(ValueError):
        executable.run([np.ones((3, 4), np.float32)] * 2)


def test_a_bad_index_raises_and_writes_nothing():
    """Eager and compiled training steps raise IndexError, and leave parameters and optimizer state as they were."""
    tr.manual_seed(0)
    net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    optimizer = optim.Adam(net.parameters(), lr=0.1)

    def step(ids):
        loss = net(ids).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    compiled = tr.compile(step)
    compiled(tr.tensor([[1, 2], [3, 9]]))
    before = [p.numpy().copy() for p in net.parameters()]
    for f in (compiled, step):
        for bad in (10, -1, 2**40, -(2**62)):
            with pytest.raises(IndexError):
                f(tr.tensor([[1, 2], [3, bad]]))
        for p, b in zip(net.parameters(), before, strict=True):
            np.testing.assert_array_equal(p.numpy(), b)
    assert compiled.cache_info()["misses"] == 1
    compiled(tr.tensor([[1, 2], [3, 4]]))
    assert any((p.numpy() != b).any() for p, b in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("dtype", [tr.int8, tr.uint8, tr.int32, tr.int64])
def test_bad_indices_of_every_width(dtype):
    x = tr.arange(5, dtype=tr.float32)
    compiled = tr.compile(lambda x, i: x[i] + 1)
    np.testing.assert_array_equal(compiled(x, tr.tensor([0, 4], dtype=dtype)).numpy(), [1, 5])
    with pytest.raises(IndexError):
        compiled(x, tr.tensor([0, 5], dtype=dtype))
    with pytest.raises(IndexError):
        compiled(x, tr.tensor([0, 127], dtype=dtype))


# ------------------------------------------------------------------ the disk cache


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o500)
    assert "right" in run(tmp_path)
    folder.chmod(0o700)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    assert "right" in run(tmp_path)
    assert (tmp_path / "cache").read_text() == "not a folder"


def test_damaged_entries_are_compiled_again(tmp_path):
    assert "right" in run(tmp_path)
    files = objects(tmp_path)
    assert files
    for k, damage in enumerate(("cut", "flip", "swap", "zeros", "text")):
        for j, file in enumerate(files):
            raw = bytearray(file.read_bytes())
            if damage == "flip":
                raw[(977 * (j + k)) % len(raw)] ^= 1 << j % 8
            elif damage == "swap":
                raw = bytearray(files[j - 1].read_bytes())
            elif damage == "zeros":
                raw = bytearray(len(raw))
            file.write_bytes(raw[: len(raw) // 2] if damage == "cut" else b"hello" if damage == "text" else raw)
        assert "right" in run(tmp_path), damage
        assert [f.name for f in objects(tmp_path)] == [f.name for f in files]


def test_entries_for_another_target_are_not_used(tmp_path):
    """Other instruction sets, and other optimization limits, have entries of their own in the same folder."""
    run(tmp_path, TRACEFUSE_TARGET="scalar")
    scalar = {f.name for f in objects(tmp_path)}
    run(tmp_path)
    assert "right" in run(tmp_path, TRACEFUSE_TARGET="scalar")
    both = {f.name for f in objects(tmp_path)}
    assert scalar < both
    assert "right" in run(tmp_path, TRACEFUSE_FUEL="0")
    assert both < {f.name for f in objects(tmp_path)}


@pytest.mark.parametrize("failing", ["replace", "mkstemp", "fdopen"])
def test_a_full_disk(failing, tmp_path, monkeypatch):
    """Compiling goes on without the cache, and leaves no temporary files."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("TRACEFUSE_CACHE_DIR", str(tmp_path))
    executable_module._compiled.clear()
    where = cache_module.tempfile if failing == "mkstemp" else cache_module.os
    monkeypatch.setattr(where, failing, full)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = build(doubled_graph()).run([np.ones((3, 4), np.float32)])
    np.testing.assert_array_equal(out[0], np.full((3, 4), 2, np.float32))
    monkeypatch.undo()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_processes_that_compile_the_same(tmp_path):
    running = [start(tmp_path, PROGRAM) for _ in range(3)]
    for process in running:
        status, out, err = finish(process)
        assert status == 0 and "right" in out, err
    assert not [f for f in objects(tmp_path) if f.name.startswith("tmp-")]


# ------------------------------------------------------------------ interruptions


def test_an_interrupt_while_compiling_leaves_everything_working(monkeypatch):
    from tracefuse.passes import pipeline

    compiled = tr.compile(combined, fullgraph=True)

    def interrupted(*args):
        raise KeyboardInterrupt

    for name in ("fuse", "lower_groups", "optimize"):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                compiled(ROW, ROW)
    with monkeypatch.context() as patch:
        patch.setattr(executable_module.engine, "compile_object", interrupted)
        executable_module._compiled.clear()
        patch.setenv("TRACEFUSE_CACHE_DIR", "off")
        with pytest.raises(KeyboardInterrupt):
            compiled(ROW, ROW)
    assert float(compiled(ROW, ROW)) == 36
    assert compiled.cache_info()["traces"] == 1


def test_an_interrupt_while_tracing_leaves_everything_working():
    armed = [True]

    def f(x):
        if armed:
            raise KeyboardInterrupt
        return x + 1

    compiled = tr.compile(f)
    with pytest.raises(KeyboardInterrupt):
        compiled(ROW)
    armed.clear()
    assert float(compiled(ROW).sum()) == 24
    assert tr.ones(2).sum() == 2  # eager operations are not recorded any more


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name != "posix", reason="signals")
def test_ctrl_c_at_any_moment(tmp_path):
    """A process that is interrupted again and again at random moments still computes the right thing afterwards."""
    program = """
        import os, random, signal, threading, time
        import numpy as np
        import tracefuse as tr
        main, random_ = os.getpid(), random.Random(0)
        stop = threading.Event()
        armed = [False]  # a flag without a lock: an interrupt may come while it is set
        def interrupt():
            while not stop.is_set():
                time.sleep(random_.uniform(0, 0.05))
                if armed[0]:
                    os.kill(main, signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        x = tr.ones((13, 17))
        hits = 0
        for k in range(25):
            @tr.compile(fullgraph=True)
            def f(x):
                return (tr.tanh(x * (k + 1)) @ x.T).sum(0)
            for attempt in range(4):
                try:
                    try:
                        armed[0] = True
                        f(x)
                        time.sleep(0.01)
                    finally:
                        armed[0] = False
                        time.sleep(0.001)  # one that was on its way arrives here
                except KeyboardInterrupt:
                    hits += 1
                    armed[0] = False
            time.sleep(0)
        def settle():
            try:
                time.sleep(0.1)
            except KeyboardInterrupt:
                pass
        stop.set(); settle()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        want = (np.tanh(x.numpy() * 25) @ x.numpy().T).sum(0)
        np.testing.assert_allclose(f(x).numpy(), want, rtol=1e-5)
        assert hits
        print("right")
    """
    assert "right" in run(tmp_path, program, TRACEFUSE_CACHE_DIR="off")


# ------------------------------------------------------------------ knobs, processes, sizes


@pytest.mark.parametrize(
    "name, value",
    [
        ("TRACEFUSE_NUM_THREADS", "many"),
        ("TRACEFUSE_NUM_THREADS", "-2"),
        ("TRACEFUSE_NUM_THREADS", "1.5"),
        ("TRACEFUSE_FUEL", "some"),
        ("TRACEFUSE_CACHE_LIMIT", "1G"),
        ("TRACEFUSE_CACHE_LIMIT", "-1"),
        ("TRACEFUSE_CODE_LIMIT", "1G"),
        ("TRACEFUSE_CODE_LIMIT", "-1"),
        ("TRACEFUSE_TARGET", "avx1024"),
        ("TRACEFUSE_DISABLE", "everything"),
    ],
)
def test_garbage_in_a_knob_names_the_variable(tmp_path, name, value):
    program = """
        import numpy as np
        import tracefuse as tr
        from tracefuse.runtime.executable import build
        from tracefuse.ir.graph import GraphBuilder
        from tracefuse.ir.types import TensorType
        from tracefuse.ir.dtypes import float32
        from tracefuse.ir.ops import add
        b = GraphBuilder("g")
        with b:
            x = b.input(TensorType(float32, (3,)))
            y = add(x, x)
        try:
            build(b.finish((y,)))
            tr.compile(lambda x: x + 1)(tr.ones(3))
        except ValueError as e:
            print(e)
    """
    out = run(tmp_path, program, **{name: value})
    assert name in out and value in out


@pytest.mark.parametrize("threads", ["1", "3"])
def test_numbers_of_threads_from_outside(tmp_path, threads):
    program = PROGRAM + "\n    from tracefuse.runtime.threads import get_num_threads\n    print(get_num_threads())\n"
    assert run(tmp_path, program, TRACEFUSE_NUM_THREADS=threads).split() == ["right", threads]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_fork_after_use(tmp_path):
    """A child made after threads ran computes, in old traces and in new ones; so does the parent afterwards."""
    program = """
        import os, warnings
        import numpy as np
        import tracefuse as tr
        warnings.simplefilter("ignore")
        @tr.compile(fullgraph=True)
        def f(x):
            return tr.tanh(x).sum(0)
        x = tr.ones((1000, 1000))
        want = f(x).numpy()
        children = []
        for k in range(3):
            pid = os.fork()
            if pid == 0:
                ok = np.array_equal(f(x).numpy(), want)
                ok = ok and float(tr.compile(lambda a: (a + k).sum(), fullgraph=True)(x)) == 1e6 * (1 + k)
                os._exit(0 if ok else 1)
            children.append(pid)
        assert np.array_equal(f(x).numpy(), want)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 3
        print("right")
    """
    assert "right" in run(tmp_path, program, TRACEFUSE_NUM_THREADS="3")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(tmp_path, method):
    program = f"""
        import multiprocessing, warnings
        import numpy as np
        import tracefuse as tr
        warnings.simplefilter("ignore")
        @tr.compile(fullgraph=True)
        def f(x):
            return tr.exp(x).sum()
        def work(k):
            return float(f(tr.full((300, 300), float(k))))
        if __name__ == "__main__":
            work(1)
            with multiprocessing.get_context("{method}").Pool(2) as pool:
                found = pool.map(work, range(4))
            np.testing.assert_allclose(found, 90000 * np.exp(np.arange(4.0)), rtol=1e-4)
            print("right")
    """
    assert "right" in run(tmp_path, program)


def chain(n: int):
    def f(x):
        y = x
        for k in range(n):
            y = y * 0.5 + x if k % 2 else tr.sin(y)
        return y

    return f


def test_a_long_chain():
    """5,000 dependent operations: no recursion runs out, and the result is that of plain Python."""
    f, x = chain(5000), tr.tensor(np.linspace(-1, 1, 100).astype(np.float32))
    compiled = tr.compile(f, fullgraph=True)
    np.testing.assert_allclose(compiled(x).numpy(), f(x).numpy(), rtol=1e-4, atol=1e-5)
    assert compiled.cache_info()["eager"] == 0


def test_a_wide_graph():
    """Hundreds of results of one input."""

    def f(x):
        return [tr.tanh(x * k).sum() for k in range(300)]

    x = tr.tensor(np.linspace(-1, 1, 100).astype(np.float32))
    for g, w in zip(tr.compile(f, fullgraph=True)(x), f(x), strict=True):
        np.testing.assert_allclose(float(g), float(w), rtol=1e-5, atol=1e-5)


def test_a_deep_call():
    """Recursion in the user's program is followed; one without end gives Python's own RecursionError."""

    def down(x, n):
        return x if n == 0 else down(x + 1, n - 1)

    assert float(tr.compile(lambda x: down(x, 50))(tr.zeros(()))) == 50
    with pytest.raises(RecursionError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tr.compile(lambda x: down(x, -1))(tr.zeros(()))


def test_memory_that_is_not_to_be_had():
    """A result too large for the machine is a MemoryError, and the next call works."""
    compiled = tr.compile(lambda x, y: x[:, None] + y, fullgraph=True)
    with pytest.raises((MemoryError, ValueError)):
        compiled(tr.broadcast_to(tr.ones(()), (1 << 22,)), tr.broadcast_to(tr.ones(()), (1 << 22,)))
    assert float(compiled(tr.ones(3), tr.ones(3)).sum()) == 18


def test_threads_that_trace_different_functions():
    results: dict[int, float] = {}

    def work(k: int) -> None:
        results[k] = float(tr.compile(lambda x: F.softmax(x * (k + 1), 0).sum() * k, fullgraph=True)(tr.ones(50)))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    np.testing.assert_allclose([results[k] for k in range(8)], np.arange(8), rtol=1e-5)
