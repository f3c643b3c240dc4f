"""Ops that no kernel computes: their NumPy references run between the kernels of a plan."""

import threading

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_plan
from tracefuse.frontend.dispatch import apply
from tracefuse.frontend.explain import explain
from tracefuse.frontend.export import Dim, export
from tracefuse.frontend.introspect import native_of
from tracefuse.frontend.program import load
from tracefuse.ir import ops
from tracefuse.ir.dim import symbol
from tracefuse.ir.dtypes import complex64, float32, int64
from tracefuse.ir.graph import GraphBuilder, InputSpec, OutputSpec, Signature
from tracefuse.ir.interpreter import run as interpret
from tracefuse.ir.op import NO_GRADIENT, OpDef
from tracefuse.ir.text import parse_graph
from tracefuse.ir.types import TensorType
from tracefuse.runtime.executable import CheckFailed, build

import tracefuse as tr
from tracefuse import nn, optim


def _inverse_vjp(c, g):
    turned = ops.permute(c.out, perm=(1, 0))
    return (ops.neg(ops.matmul(ops.matmul(turned, g), turned)),)


inverse = OpDef("test_inverse", "structural", ("x",), lambda x: x, np.linalg.inv, _inverse_vjp, saves=("out",))
split_signs = OpDef(
    "test_signs",
    "structural",
    ("x",),
    lambda x, n: (x.with_shape((n,)), x, x.with_dtype(int64)),
    lambda x, n: (np.full(n, x.sum()), np.maximum(x, 0), np.sign(x).astype(np.int64)),
    NO_GRADIENT,
    attrs={"n": 0},
    n_outputs=3,
)
join = OpDef(
    "test_join",
    "structural",
    ("x", "y"),
    lambda x, y: x.with_dtype(complex64),
    lambda x, y: (x + 1j * y).astype(np.complex64),
    NO_GRADIENT,
)
imaginary = OpDef(
    "test_imaginary", "structural", ("z",), lambda z: z.with_dtype(float32), lambda z: z.imag.copy(), NO_GRADIENT
)


def regular(n: int = 4) -> np.ndarray:
    return (np.eye(n) * 3 + np.random.default_rng(0).random((n, n))).astype(np.float32)


def plan_of(fn, *args):
    """The plan behind a call, which has to be captured as one graph."""
    compiled = tr.compile(fn, fullgraph=True)
    compiled(*args)
    return native_of(compiled.traces[0].executable).plan


def same(fn, *args, rtol: float = 1e-6) -> None:
    """Compiled as one graph, `fn` gives what it gives as plain Python; twice, so that a found trace serves too."""
    compiled = tr.compile(fn, fullgraph=True)
    want = fn(*args)
    for _ in range(2):
        got = compiled(*args)
        pairs = zip(got, want, strict=True) if isinstance(want, (tuple, list)) else [(got, want)]
        for g, w in pairs:
            assert g.dtype == w.dtype
            np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=rtol, atol=1e-6)
    info = compiled.cache_info()
    assert info["traces"] == 1 and info["eager"] == 0


# ------------------------------------------------------------------ capture


def test_sorting_is_captured():
    x = tr.rand(5, 7)
    same(lambda x: tr.sort(x * 2, axis=0) + 1, x)
    same(lambda x: (tr.argsort(x.T, descending=True), x * 2), x)
    same(lambda x: tr.topk(tr.exp(x), 3), x)
    same(lambda x: tr.searchsorted(tr.asarray([0.2, 0.5, 0.7]), x.T * 1.0), x)
    same(lambda x: tr.median(x, axis=1) * x.sum(1), x)


def test_sorting_of_arrays_is_captured():
    def f(a, b):
        s = np.sort(a, axis=0)
        return s + 1, a.argsort(kind="stable"), np.searchsorted(b, a), np.sort(a, axis=None), np.argsort(a, stable=True)

    a, b = np.random.default_rng(0).random((4, 6)), np.linspace(0, 1, 5)
    for got, want in zip(tr.compile(f, fullgraph=True)(a, b), f(a, b), strict=True):
        assert type(got) is np.ndarray and got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


COMPOSED = {
    "inv": lambda x: tr.linalg.inv(x * 2) + 1,
    "cholesky": lambda x: tr.linalg.cholesky(x @ x.T) * 2,
    "svd": lambda x: tr.linalg.svdvals(x * 2) + 1,
    "slogdet": lambda x: tuple(tr.linalg.slogdet(x * 2)),
    "solve": lambda x: tr.linalg.solve(x, x[0] * 2) + 1,
    "fft": lambda x: tr.fft.fft(x * 2),
    "spectrum": lambda x: tr.abs(tr.fft.fft(x)) ** 2 + 1,
    "filter": lambda x: tr.fft.irfft(tr.fft.rfft(x * 2) * 0.5) + 1,
    "complex product": lambda x: tr.imag(tr.fft.fft(x) @ tr.conj(tr.fft.fft(x).T)) * 2,
    "complex sum": lambda x: tr.real(tr.sum(tr.fft.fft(x) * (1 + 2j))),
    "gradient": lambda x: tr.autograd.grad(tr.sum(tr.linalg.inv(x)) + tr.linalg.det(x * 2), x)[0] + 1,
    "gradient through complex numbers": lambda x: tr.autograd.grad(tr.sum(tr.abs(tr.fft.fft(x)) ** 2), x)[0],
}


@pytest.mark.parametrize("name", COMPOSED)
def test_factorizations_and_transforms_are_captured(name):
    same(COMPOSED[name], tr.tensor(regular(), requires_grad="gradient" in name), rtol=1e-4)


def test_positions_that_argsort_gives_are_not_checked_again():
    assert not plan_of(lambda x: tr.sort(x), tr.rand(5, 7)).checks


def test_positions_are_trusted_only_for_sizes_that_they_fit():
    """argmax over 5000 elements is no index into 5."""
    graph = parse_graph(
        """
graph @f(%x: f32[3, 5000], %y: f32[5]) -> (%1) {
  %0: i64[3] = argmax(%x, axis=1)
  %1: f32[3] = gather(%y, %0)
  in %x "x" arg
  in %y "y" arg
  out %1 result
}
""".strip()
    )
    x = np.zeros((3, 5000), np.float32)
    x[:, 4000] = 1
    with pytest.raises(CheckFailed, match="out of range for size 5"):
        build(graph).run([x, np.ones(5, np.float32)])


# ------------------------------------------------------------------ gradients and training


def test_gradients_pass_through_host_steps():
    def f(m, v):
        loss = (apply(inverse, m * 1.5) @ v).sum()
        return tr.autograd.grad(loss, m)[0] + 1

    m = tr.tensor(regular(), requires_grad=True)
    v = tr.rand(4)
    same(f, m, v, rtol=2e-5)


def test_a_history_made_by_a_compiled_forward():
    m, v = tr.tensor(regular(), requires_grad=True), tr.rand(4)
    f = tr.compile(lambda m: (apply(inverse, m + 0.5) @ v).sum(), fullgraph=True)
    f(m).backward()
    got = m.grad.numpy()
    m.grad = None
    (apply(inverse, m + 0.5) @ v).sum().backward()
    np.testing.assert_allclose(got, m.grad.numpy(), rtol=1e-5)


def test_training_steps():
    def losses(compiled):
        tr.manual_seed(0)
        net = nn.Linear(6, 5)
        opt = optim.Adam(net.parameters(), lr=0.01)

        def step(x, y):
            opt.zero_grad()
            top, _ = tr.topk(net(x), 3)
            loss = ((tr.sort(top * y, axis=0) - 1) ** 2).mean()
            loss.backward()
            opt.step()
            return loss

        step = tr.compile(step, fullgraph=True) if compiled else step
        x, y = tr.rand(8, 6), tr.rand(8, 3)
        out = [float(step(x, y)) for _ in range(4)]
        return out, net.weight.numpy().copy(), step

    want, weight, _ = losses(False)
    got, same_weight, step = losses(True)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(same_weight, weight, rtol=1e-5, atol=1e-6)
    report = explain(step).traces[-1]
    assert report.entry == "python" and {s.op for s in report.host_steps} == {"argsort"}
    assert report.memory is not None and "net.weight" in report.memory.in_place  # updates come after what may fail


# ------------------------------------------------------------------ errors


def writing_graph():
    """%count is overwritten with itself plus one, %y is the inverse of %x."""
    b = GraphBuilder("step")
    x, count = b.input(TensorType(float32, (3, 3)), "x"), b.input(TensorType(float32, (3, 3)), "count")
    with b:
        more = ops.add(count, count)
        (y,) = b.emit(inverse, (ops.neg(x),), {})
        outs = [more, ops.add(y, count)]
    specs = (OutputSpec("write", 1, "count"), OutputSpec())
    return b.finish(outs, Signature((InputSpec("x"), InputSpec("count", "state")), specs))


def test_nothing_is_written_when_a_reference_raises():
    e = build(writing_graph())
    assert e.plan.commit_from > max(k for k, s in enumerate(e.plan.steps) if s in e.plan.host_steps)
    count = np.ones((3, 3), np.float32)
    with pytest.raises(np.linalg.LinAlgError, match="Singular") as caught:
        e.run([np.zeros((3, 3), np.float32), count])
    assert "test_inverse(f32[3, 3])" in caught.value.__notes__[0]
    np.testing.assert_array_equal(count, 1)
    out = e.run([np.eye(3, dtype=np.float32), count])
    assert out[0] is None and out[1] is not None
    np.testing.assert_array_equal(count, 2)
    np.testing.assert_array_equal(out[1], 1 - np.eye(3))


def test_the_error_of_a_compiled_call_is_the_users():
    count = tr.zeros(2)

    def step(x):
        y = apply(inverse, x) * 2
        count.add_(1)
        return y

    compiled = tr.compile(step, fullgraph=True)
    compiled(tr.tensor(regular(2)))
    with pytest.raises(np.linalg.LinAlgError, match="Singular") as caught:
        compiled(tr.zeros(2, 2))
    assert any(line.name == "step" for line in caught.traceback)
    np.testing.assert_array_equal(count.numpy(), 1)


def test_the_error_of_an_exported_program_has_the_users_line():
    program = export(lambda x: apply(inverse, x) * 2, (tr.tensor(regular(2)),))
    with pytest.raises(np.linalg.LinAlgError) as caught:
        program(tr.zeros(2, 2))
    assert caught.value.__notes__[0].startswith("test_host_steps.py:")


def test_a_bad_index_is_an_error_before_anything_is_written():
    state = tr.zeros(3)

    def step(x, i):
        state.copy_(tr.sort(x))
        return tr.take(tr.sort(x), i, axis=0)

    compiled = tr.compile(step, fullgraph=True)
    np.testing.assert_array_equal(compiled(tr.tensor([3.0, 1.0, 2.0]), tr.tensor([2, 0])).numpy(), [3, 1])
    executable = native_of(compiled.traces[0].executable)
    arrays = [s.fetch([tr.tensor([9.0, 8.0, 7.0]), tr.tensor([5, 0])]) for s in compiled.traces[0].sources]
    with pytest.raises(CheckFailed):
        executable.run(arrays)
    np.testing.assert_array_equal(state.numpy(), [1, 2, 3])


def test_a_reference_that_breaks_its_type_rule_is_named():
    wrong = OpDef("test_wrong", "structural", ("x",), lambda x: x, lambda x: x.astype(np.float64), NO_GRADIENT)
    b = GraphBuilder()
    x = b.input(TensorType(float32, (3,)))
    with pytest.raises(RuntimeError, match=r"test_wrong gives float64\[3\] where its type rule says f32\[3\]"):
        build(b.finish(b.emit(wrong, (x,), {}))).run([np.ones(3, np.float32)])


# ------------------------------------------------------------------ plans


def agree(graph, arrays) -> None:
    """The compiled graph, its plan in NumPy, and the interpreter give the same."""
    want = interpret(graph, arrays)
    e = build(graph)
    assert e.plan.host_steps
    for got in (e.run([a.copy() for a in arrays]), run_plan(e.plan, arrays)):
        for g, w in zip(got, want, strict=True):
            assert g is not None and g.dtype == w.dtype
            np.testing.assert_allclose(g, w, rtol=1e-6)


@pytest.mark.parametrize("disabled", ["", "fuse,dce", "recompute,simplify,simplify_again,cse"])
def test_host_steps_in_a_row_and_between_kernels(monkeypatch, disabled):
    monkeypatch.setenv("TRACEFUSE_DISABLE", disabled)
    b = GraphBuilder()
    x = b.input(TensorType(float32, (4, 6)))
    with b:
        total, positive, _ = b.emit(split_signs, (ops.permute(ops.exp(x), perm=(1, 0)),), {"n": 5})
        _, again, signs = b.emit(split_signs, (positive,), {"n": 0})
        flat = ops.reshape(again, shape=(24,))
        at = ops.argsort(flat, axis=0)
        picked = ops.gather(flat, at)
        shape = ops.reshape(picked, shape=(4, 6))
        outs = [ops.add(shape, x), total, signs, at, at, x, ops.argsort(x, axis=1), flat]
    agree(b.finish(outs), [np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)])


def test_a_graph_of_one_host_step():
    b = GraphBuilder()
    x = b.input(TensorType(float32, (4, 6)))
    agree(b.finish(b.emit(split_signs, (x,), {"n": 3})), [np.ones((4, 6), np.float32)])


def test_no_elements():
    b = GraphBuilder()
    x = b.input(TensorType(float32, (0, 6)))
    with b:
        outs = b.emit(split_signs, (ops.neg(x),), {"n": 3})
        outs = [*outs, ops.argsort(x, axis=1), ops.add(outs[1], x)]
    agree(b.finish(outs), [np.ones((0, 6), np.float32)])


def test_dynamic_sizes():
    n = symbol("n", 1, 64)
    b = GraphBuilder()
    x = b.input(TensorType(float32, (n, 6)))
    with b:
        order = ops.argsort(ops.mul(x, x), axis=0)
        total, positive, _ = b.emit(split_signs, (ops.permute(x, perm=(1, 0)),), {"n": n * 2})
        outs = [ops.gather(x, ops.reshape(order, shape=(n * 6,))), ops.exp(positive), total]
    graph = b.finish(outs)
    e = build(graph)
    for size in (1, 6, 33):
        arrays = [np.random.default_rng(size).random((size, 6)).astype(np.float32)]
        want = interpret(graph, arrays)
        for got in (e.run(arrays), run_plan(e.plan, arrays)):
            for g, w in zip(got, want, strict=True):
                np.testing.assert_allclose(g, w, rtol=1e-6)


def test_complex_numbers_stay_on_the_host():
    b = GraphBuilder()
    x, old = b.input(TensorType(float32, (3, 5)), "x"), b.input(TensorType(complex64, (5, 3)), "old")
    with b:
        (z,) = b.emit(join, (ops.exp(x), ops.neg(x)), {})
        turned = ops.reshape(ops.permute(z, perm=(1, 0)), shape=(5, 3))
        (part,) = b.emit(imaginary, (turned,), {})
        outs = [ops.mul(part, part), turned, old, turned, turned]
    specs = (OutputSpec(), OutputSpec(), OutputSpec(), OutputSpec("write", 1, "old"), OutputSpec())
    graph = b.finish(outs, Signature((InputSpec("x"), InputSpec("old", "state")), specs))
    e = build(graph)
    assert any("complex64" in s.reason for s in e.plan.host_steps)
    arrays = [np.random.default_rng(0).random((3, 5)).astype(np.float32), np.ones((5, 3), np.complex64)]
    want = interpret(graph, [a.copy() for a in arrays])
    planned = run_plan(e.plan, arrays)
    got = e.run(arrays)
    assert got[3] is None
    got[3] = arrays[1]
    for g, p, w in zip(got, planned, want, strict=True):
        assert g is not None and g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=1e-6)
        np.testing.assert_allclose(p, w, rtol=1e-6)


def test_many_threads_at_once():
    f = tr.compile(lambda x: tr.sort(tr.exp(x) * 2, axis=1) + x, fullgraph=True)
    xs = [tr.rand(40, 300) for _ in range(4)]
    wants = [f.__wrapped__(x).numpy() for x in xs]
    f(xs[0])
    wrong = []

    def work(k):
        for _ in range(20):
            if not np.allclose(f(xs[k]).numpy(), wants[k], rtol=1e-6):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and f.cache_info()["eager"] == 0


# ------------------------------------------------------------------ tools


def test_programs_in_files(tmp_path):
    def f(x):
        values, at = tr.topk(x * 2, 2, axis=1)
        return values + 1, at

    x = tr.rand(3, 6)
    export(f, (x,), dynamic={"x": {0: Dim("batch", 1, 100)}}).save(tmp_path / "f.tfx")
    program = load(tmp_path / "f.tfx")
    for rows in (3, 17):
        x = tr.rand(rows, 6)
        for got, want in zip(program(x), f(x), strict=True):
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)


def test_explain_names_host_steps_and_why():
    e = explain(lambda x: tr.exp(tr.sort(tr.sin(x), axis=0)), tr.rand(4, 3))
    (trace,) = e.traces
    (step,) = trace.host_steps
    assert step.op == "argsort" and step.operands == ("f32[4, 3]",) and step.results == ("i64[4, 3]",)
    assert step.reason == "no kernel computes argsort" and step.source.startswith("test_host_steps.py:")
    assert step.after == 1 and len(trace.kernels) == 2
    lines = e.summary().splitlines()
    assert "2 kernels, 1 host steps" in e.summary()
    at = next(k for k, line in enumerate(lines) if "on the host: argsort(f32[4, 3])" in line)
    assert any("sin" in line for line in lines[:at]) and any("exp" in line for line in lines[at:])
    e.to_dict()


def test_benchmark_runs_plans_with_host_steps():
    report = tr.benchmark(lambda x: tr.sort(x) + 1, tr.rand(16, 16), seconds=0.05)
    assert report
