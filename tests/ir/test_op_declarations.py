"""What every op declaration promises, checked from its own samples."""

import numpy as np
import pytest
from tracefuse.backends.reference.scalar_eval import evaluate
from tracefuse.ir import ops
from tracefuse.ir import scalar as s
from tracefuse.ir.dim import symbol
from tracefuse.ir.dtypes import bfloat16, bool_, float16, float32, float64, from_numpy
from tracefuse.ir.graph import Graph, GraphBuilder, Value
from tracefuse.ir.interpreter import run
from tracefuse.ir.op import NO_GRADIENT, REGISTRY, Sample, VjpContext, value_type
from tracefuse.ir.subgraph import retyped
from tracefuse.ir.types import TensorType

OPS = list(REGISTRY.values())
POINTWISE = [op for op in OPS if op.kind == "pointwise"]
COMPOSITE = [op for op in OPS if op.kind == "composite"]
IN_PART = {"while_vjp"}  # in its last operands only: tests/ir/test_control_flow.py
DIFFERENTIABLE = [op for op in OPS if op.vjp != NO_GRADIENT and op.name not in IN_PART]
ONCE = {"while"}  # its gradient is while_vjp
EPSILON = {np.dtype(np.float32): 1.2e-7, np.dtype(np.float64): 2.3e-16, float16.np: 1e-3, bfloat16.np: 8e-3}
EPSILON |= {np.dtype(np.complex64): 1.2e-7, np.dtype(np.complex128): 2.3e-16}


def name(op) -> str:
    return op.name


def samples(op) -> list[Sample]:
    return list(op.samples())


def types_of(args) -> tuple[TensorType, ...]:
    return tuple(map(value_type, args))


def attrs_of(op, sample: Sample) -> dict:
    return {k: v for k, v in op.attrs.items() if k not in sample.attrs} | sample.attrs


def outputs(result) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def assert_close(got, want, rtol: float, message: str = ""):
    """Relative, or absolute where values are below 1."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, message
    if want.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want, message)
        return
    got, want = in_double((got, want))
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol, equal_nan=True, err_msg=message)


# ------------------------------------------------------------------ declarations


@pytest.mark.parametrize("op", OPS, ids=name)
def test_declaration_is_complete(op):
    assert op.samples is not None and samples(op)
    assert op.errors is not None and list(op.errors())
    assert callable(op.vjp) or op.vjp == NO_GRADIENT
    names = {o.lstrip("*") for o in op.operands}
    assert op.saves is None or {o.lstrip("*") for o in op.saves} <= names | {"out"}
    assert {o.lstrip("*") for o in op.linear} <= names


LANE_BY_LANE = {"random_bits"}  # its operand is the generator's state: vmap draws for all lanes at once


@pytest.mark.parametrize("op", [op for op in OPS if op.kind == "structural" and op.operands], ids=name)
def test_structural_ops_have_a_batching_rule(op):
    assert callable(op.batch) or op.name in LANE_BY_LANE


PRIMITIVE = """
    add sub mul div floordiv mod pow neg abs sign floor ceil trunc round sqrt rsqrt cbrt exp exp2 expm1 log
    log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf erfc erfinv lgamma
    digamma maximum minimum copysign eq ne lt le gt ge and or xor not shl shr isnan isinf isfinite where cast
    bitcast sigmoid relu gelu silu logaddexp full iota broadcast_to reshape permute slice flip pad concat
    slice_scatter windows unwindows gather scatter check_index reduce_sum reduce_prod reduce_max reduce_min
    reduce_any reduce_all argmax argmin matmul conv random_bits mean var softmax log_softmax logsumexp
    layer_norm rms_norm batch_norm cross_entropy
"""


def test_names_of_architecture_document():
    """The list of primitive ops, as documented."""
    assert set(PRIMITIVE.split()) <= REGISTRY.keys()


@pytest.mark.parametrize("op", OPS, ids=name)
def test_reference_has_the_declared_type(op):
    for sample in samples(op):
        attrs = attrs_of(op, sample)
        declared = op.result_types(types_of(sample.args), attrs)
        before = [a.copy() for a in sample.args]
        results = outputs(op.evaluate(sample.args, attrs))
        assert types_of(results) == declared, sample
        for a, b in zip(sample.args, before):
            np.testing.assert_array_equal(a, b, "an operand was overwritten")


@pytest.mark.parametrize("op", OPS, ids=name)
def test_errors_are_refused(op):
    for bad in op.errors():
        with pytest.raises(bad.error, match=bad.match):
            attrs = {k: v for k, v in op.attrs.items() if k not in bad.attrs} | bad.attrs
            op.result_types(types_of(bad.args), attrs)
            op.evaluate(bad.args, attrs)  # what only values show


# ------------------------------------------------------------------ scalar lowering


def scalar_value(op, sample: Sample) -> np.ndarray:
    leaves = [s.load(from_numpy(a.dtype), f"x{i}", ()) for i, a in enumerate(sample.args)]
    e = op.scalar(*leaves, **attrs_of(op, sample))
    (declared,) = op.result_types(types_of(sample.args), attrs_of(op, sample))
    assert e.dtype is declared.dtype
    return np.broadcast_to(evaluate(e, dict(zip(leaves, sample.args))), declared.shape)


@pytest.mark.parametrize("op", POINTWISE, ids=name)
def test_scalar_lowering_agrees_with_the_reference(op):
    for sample in samples(op):
        narrow = {a.dtype for a in sample.args} & {float16.np, bfloat16.np}
        if narrow and op.name not in ("cast", "bitcast", "where"):
            continue  # lowering widens them first
        want = op.evaluate(sample.args, attrs_of(op, sample))
        assert_close(scalar_value(op, sample), want, 8 * EPSILON.get(want.dtype, 0) * op.tolerance / 1e-6, repr(sample))


@pytest.mark.parametrize("exponent", [-2.0, -1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 2.5])
def test_pow_with_a_known_exponent(exponent):
    x = np.array([-np.inf, -2.0, -0.0, 0.0, 0.7, 3.0, np.inf, np.nan], np.float32)
    leaf = s.load(float32, "x", ())
    got = evaluate(ops.pow_.scalar(leaf, s.const(exponent, float32)), {leaf: x})
    np.testing.assert_allclose(got, ops.pow_(x, np.asarray(exponent, np.float32)), rtol=4e-7)


@pytest.mark.parametrize("exponent", [-3, -1, 0, 1, 2, 5, 13])
@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_integer_pow_with_a_known_exponent(exponent, dtype):
    x = np.arange(-5, 6).astype(dtype)
    leaf = s.load(from_numpy(x.dtype), "x", ())
    got = evaluate(REGISTRY["pow"].scalar(leaf, s.const(exponent, leaf.dtype)), {leaf: x})
    np.testing.assert_array_equal(got, ops.pow_(x, np.full_like(x, exponent)))


# ------------------------------------------------------------------ composites


@pytest.mark.parametrize("op", COMPOSITE, ids=name)
def test_decomposition_agrees_with_the_reference(op):
    for sample in samples(op):
        attrs = attrs_of(op, sample)
        want = outputs(op.evaluate(sample.args, attrs))
        got = outputs(op.decompose(*sample.args, **attrs))
        for w, g in zip(want, got, strict=True):
            assert g.dtype == w.dtype
            assert_close(g, w, 16 * EPSILON.get(w.dtype, 0), repr(sample))


@pytest.mark.parametrize("op", COMPOSITE, ids=name)
def test_decomposition_traces_with_the_declared_types(op):
    for sample in samples(op)[:4]:
        attrs = attrs_of(op, sample)
        with GraphBuilder() as b:
            inputs = tuple(b.input(t) for t in types_of(sample.args))
            graph = b.finish(outputs(op.decompose(*inputs, **attrs)))
        assert not graph.constants
        assert tuple(v.type for v in graph.outputs) == op.result_types(types_of(sample.args), attrs)
        for got, want in zip(run(graph, sample.args), outputs(op.evaluate(sample.args, attrs))):
            assert_close(got, want, 16 * EPSILON.get(want.dtype, 0), repr(sample))


# ------------------------------------------------------------------ gradients


def sum_to(g: np.ndarray, shape: tuple) -> np.ndarray:
    """Undoes broadcasting."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, d in enumerate(shape) if d == 1 and g.shape[i] != 1), keepdims=True)


def saved(op, args: tuple, results: tuple) -> tuple[tuple, tuple]:
    """Only what the op says its rule reads."""
    if op.saves is None or op.variadic:
        return args, results
    inputs = tuple(a if n in op.saves else None for n, a in zip(op.operands, args))
    return inputs, results if "out" in op.saves else (None,) * len(results)


def gradients(op, args: tuple, attrs: dict, gs: tuple) -> tuple:
    results = outputs(op(*args, **attrs))
    needs = tuple(t.dtype.is_inexact for t in types_of(args))
    inputs, kept = saved(op, args, results)
    c = VjpContext(inputs, kept, types_of(args), attrs, needs)
    found = op.vjp(c, *gs)
    assert len(found) == len(args)
    return found


def in_double(args: tuple) -> tuple:
    wide = {"c": np.complex128, "f": np.float64, "V": np.float64}
    return tuple(a.astype(wide[a.dtype.kind]) if a.dtype.kind in wide else a for a in args)


def normal(rng, x: np.ndarray) -> np.ndarray:
    """Random numbers of the shape of x, real or complex as it is."""
    out = np.asarray(rng.standard_normal(x.shape))
    return np.asarray(out + 1j * rng.standard_normal(x.shape)) if x.dtype.kind == "c" else out


def paired(g: np.ndarray, x: np.ndarray) -> float:
    """What a cotangent makes of a change: complex ones pair without a conjugate."""
    return float(np.real(np.sum(g * x)))


def checked(op) -> list[Sample]:
    """The samples to differentiate: float32 operands, and perhaps integers (indices, masks) among them."""

    def fits(x: Sample) -> bool:
        floats = [a for a in x.args if a.dtype.kind not in "biu"]
        return x.gradcheck and bool(floats) and all(a.dtype in (np.float32, np.complex64) for a in floats)

    return [x for x in samples(op) if fits(x)]


def double(v):
    """An attribute for operands of float64."""
    if isinstance(v, Graph):
        wide = [x.type.with_dtype(float64) if x.dtype is float32 else x.type for x in v.inputs]
        return retyped(v, wide)
    return float64 if v is float32 else v


def double_attrs(op, sample: Sample) -> dict:
    return {k: double(v) if k == "dtype" or isinstance(v, Graph) else v for k, v in attrs_of(op, sample).items()}


IN_ONE_OPERAND = {"zeta", "igamma", "igammac"}  # tested in tests/frontend/test_tensor_torch.py


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=name)
def test_vjp_agrees_with_finite_differences(op):
    rng = np.random.default_rng(0)
    assert not op.operands or op.name in IN_ONE_OPERAND or any(a.size for x in checked(op) for a in x.args)
    for sample in checked(op):
        args, attrs = in_double(sample.args), double_attrs(op, sample)
        results = outputs(op(*args, **attrs))
        gs = tuple(normal(rng, r) for r in results)
        found = gradients(op, args, attrs, gs)
        step = 1e-5
        for i, x in enumerate(args):
            if x.dtype.kind in "biu":
                assert found[i] is None
                continue
            assert found[i] is not None and found[i].dtype == x.dtype
            direction = normal(rng, x)
            ends = []
            for sign in (1, -1):
                moved = (*args[:i], np.asarray(x + sign * step * direction), *args[i + 1 :])
                ends.append(sum(paired(g, r) for g, r in zip(gs, outputs(op(*moved, **attrs)))))
            numeric = (ends[0] - ends[1]) / (2 * step)
            analytic = paired(sum_to(found[i], x.shape), direction)
            scale = max(1.0, float(np.abs(found[i]).sum()) if found[i].size else 1.0)
            assert abs(numeric - analytic) <= 2e-7 * scale, (op.name, i, sample.attrs, x.shape, numeric, analytic)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=name)
def test_vjp_traces_and_keeps_dtype(op):
    """The rule recorded as a graph computes what it computes on arrays, in the operand's own dtype."""
    for sample in [x for x in samples(op) if x.args and x.args[0].dtype in (float16.np, np.float32, np.complex64)][:6]:
        attrs = attrs_of(op, sample)
        results = outputs(op.evaluate(sample.args, attrs))
        if any(r.dtype.kind in "biu" for r in results):
            continue
        gs = tuple(np.ones_like(r) for r in results)
        want = gradients(op, sample.args, attrs, gs)
        with GraphBuilder() as b:
            inputs, kept = saved(op, sample.args, results)

            def lift(a):
                return None if a is None else b.input(value_type(a))

            vi, vo, vg = tuple(map(lift, inputs)), tuple(map(lift, kept)), tuple(map(lift, gs))
            needs = tuple(a.dtype.kind not in "biu" for a in sample.args)
            found = op.vjp(VjpContext(vi, vo, types_of(sample.args), attrs, needs), *vg)
            graph = b.finish([f for f in found if f is not None])
        assert not graph.constants or op.kind == "structural"
        arrays = [a for a in (*inputs, *kept, *gs) if a is not None]
        got = run(graph, arrays)
        for g, w in zip(got, [w for w in want if w is not None], strict=True):
            assert g.dtype == w.dtype
            assert_close(g, w, 32 * EPSILON[w.dtype], repr(sample))
        for a, w in zip(sample.args, want):
            assert w is None or w.dtype == a.dtype, (op.name, a.dtype, w.dtype)


def pulled_back(graph: Graph, arrays: list, gs: list) -> list:
    """The cotangents of the graph's inputs: reverse mode over its nodes."""
    env = dict(zip(graph.inputs, arrays)) | graph.constants
    for node in graph.nodes:
        env |= zip(node.outputs, outputs(node.op.evaluate(tuple(env[v] for v in node.inputs), node.attrs)))
    cotangent = {}

    def accumulate(v, g):
        cotangent[v] = cotangent.get(v, 0.0) + sum_to(g, v.shape)

    for v, g in zip(graph.outputs, gs):
        accumulate(v, g)
    for node in reversed(graph.nodes):
        if node.op.vjp == NO_GRADIENT or not any(v in cotangent for v in node.outputs):
            continue
        into = tuple(np.asarray(cotangent.get(v, np.zeros(v.shape))) for v in node.outputs)
        needs = tuple(v.dtype.is_inexact for v in node.inputs)
        args, results = (tuple(env[v] for v in vs) for vs in (node.inputs, node.outputs))
        c = VjpContext(args, results, tuple(v.type for v in node.inputs), node.attrs, needs)
        for v, g in zip(node.inputs, node.op.vjp(c, *into)):
            if g is not None:
                accumulate(v, np.asarray(g))
    return [cotangent.get(v, np.zeros(v.shape)) for v in graph.inputs]


def check_second_derivative(op, args: tuple, attrs: dict):
    """The rule, recorded as a graph and differentiated again, against finite differences of the rule."""
    rng = np.random.default_rng(1)
    gs = tuple(normal(rng, r) for r in outputs(op(*args, **attrs)))
    with GraphBuilder() as b:
        inputs = tuple(b.input(t) for t in types_of(args))
        found = [f for f in gradients(op, inputs, attrs, gs) if f is not None]
        graph = b.finish(f if isinstance(f, Value) else b.constant(f) for f in found)
    outer = [normal(rng, np.zeros(v.shape, v.dtype.np)) for v in graph.outputs]
    second = pulled_back(graph, list(args), outer)
    for i, x in enumerate(args):
        if x.dtype.kind not in "fc":
            continue
        direction = normal(rng, x)
        ends = []
        for sign in (1, -1):
            moved = [*args[:i], np.asarray(x + sign * 1e-5 * direction), *args[i + 1 :]]
            ends.append(sum(paired(o, r) for o, r in zip(outer, run(graph, moved))))
        numeric, analytic = (ends[0] - ends[1]) / 2e-5, paired(second[i], direction)
        size = max(1.0, float(np.abs(second[i]).sum()))
        assert abs(numeric - analytic) <= 1e-6 * size, (op.name, i, attrs, x.shape, numeric, analytic)


@pytest.mark.parametrize("op", [op for op in DIFFERENTIABLE if op.name not in ONCE], ids=name)
def test_second_derivatives(op):
    for sample in [x for x in checked(op) if 0 < sum(a.size for a in x.args) < 60][:3]:
        check_second_derivative(op, in_double(sample.args), double_attrs(op, sample))


def test_second_derivative_of_prod_at_zeros():
    for row in ([0.0, 2.0, 3.0], [0.0, 0.0, 3.0, 2.0], [0.0] * 3):
        check_second_derivative(ops.reduce_prod, (np.array(row),), {"axes": (0,)})


def grad_at(op, x, **attrs):
    args = tuple(np.asarray(a, np.float64) for a in (x if isinstance(x, tuple) else (x,)))
    attrs = dict(op.attrs) | attrs
    out = op(*args, **attrs)
    return [sum_to(g, a.shape).tolist() for g, a in zip(gradients(op, args, attrs, (np.ones_like(out),)), args)]


def test_gradients_at_kinks():
    assert grad_at(ops.abs_, [0.0, -2.0]) == [[0.0, -1.0]]
    assert grad_at(ops.relu, [0.0, -1.0, 2.0]) == [[0.0, 0.0, 1.0]]
    assert grad_at(ops.maximum, ([1.0, 2.0], [1.0, 3.0])) == [[0.5, 0.0], [0.5, 1.0]]
    assert grad_at(ops.minimum, ([1.0, 2.0], [1.0, 3.0])) == [[0.5, 1.0], [0.5, 0.0]]
    assert grad_at(ops.reduce_max, [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], axes=(1,)) == [[[0, 0.5, 0.5], [1 / 3] * 3]]
    assert grad_at(ops.pow_, ([0.0, -2.0, 0.0], [2.0, 3.0, 0.0]))[0] == [0.0, 12.0, 0.0]
    assert grad_at(ops.pow_, ([0.0], [2.0]))[1] == [0.0]
    assert grad_at(ops.sqrt, [0.0]) == [[np.inf]]
    assert grad_at(ops.hardtanh, [-1.0, 0.0, 1.0]) == [[0.0, 1.0, 0.0]]
    assert grad_at(ops.sign, [0.0, 3.0]) == [[0.0, 0.0]]
    assert grad_at(ops.atan2, ([0.0], [0.0])) == [[0.0], [0.0]]
    assert grad_at(ops.copysign, ([0.0, 2.0], [1.0, -1.0])) == [[0.0, -1.0], [0.0, 0.0]]


@pytest.mark.parametrize("zeros", [(), (1,), (1, 3)])
def test_gradient_of_prod_with_zeros(zeros):
    x = np.array([[1.5, 2.0, -1.0, 3.0, 0.5], [2.0, 1.0, 4.0, 0.25, 1.0]])
    x[0, list(zeros)] = 0.0
    (got,) = grad_at(ops.reduce_prod, x, axes=(1,))
    want = [[np.prod(np.delete(row, j)) for j in range(5)] for row in x]
    np.testing.assert_allclose(got, want)
    (got,) = grad_at(ops.reduce_prod, x, axes=(0, 1))
    flat = x.ravel()
    np.testing.assert_allclose(np.ravel(got), [np.prod(np.delete(flat, j)) for j in range(10)])


def test_masked_gradients_hide_infinities():
    c = np.array([True, False])
    x = np.array([4.0, 0.0])
    assert grad_at(ops.div, (x, [2.0, 0.0]))[0] == [0.5, np.inf]
    g = ops.where.vjp(VjpContext((c, None, None), (None,), (None,) * 3, {}, (False, True, True)), np.array([1.0, 2.0]))
    assert g[0] is None and g[1].tolist() == [1.0, 0.0] and g[2].tolist() == [0.0, 2.0]


# ------------------------------------------------------------------ references


@pytest.mark.parametrize("op", [ops.floordiv, ops.mod])
def test_integer_division_as_numpy(op):
    x = np.array([-(2**31), -7, 7, 5, 0], np.int32)
    y = np.array([-1, 2, -2, 0, 0], np.int32)
    with np.errstate(all="ignore"):
        want = {"floordiv": np.floor_divide, "mod": np.remainder}[op.name](x, y)
    np.testing.assert_array_equal(op(x, y), want)
    np.testing.assert_array_equal(scalar_value(op, Sample((x, y))), want)


# name: mpmath's name, range, ulp (lgamma and digamma: of the larger of the value and 1, for they have zeros)
SPECIAL = {
    "erf": ("erf", -7, 7, 2),
    "erfc": ("erfc", -6, 26, 4),
    "erfinv": ("erfinv", -0.999999, 0.999999, 6),
    "lgamma": ("loggamma", 0.01, 60, 4),
    "digamma": ("digamma", 0.01, 60, 8),
}


@pytest.mark.parametrize("fn", SPECIAL)
def test_special_references_against_mpmath(fn):
    mpmath = pytest.importorskip("mpmath")
    exact, low, high, ulp = SPECIAL[fn]
    x = np.linspace(low, high, 401)
    with mpmath.workdps(40):
        want = np.array([float(getattr(mpmath, exact)(mpmath.mpf(float(v)))) for v in x])
    size = np.maximum(np.abs(want), 1.0) if fn in ("lgamma", "digamma") else np.abs(want)
    assert np.max(np.abs(REGISTRY[fn].reference(x) - want) / np.spacing(size)) <= ulp


def test_fast_float32_erf():
    x = np.concatenate([np.linspace(-5, 5, 20001), np.logspace(-30, 0, 1001)]).astype(np.float32)
    want = ops.erf(x.astype(np.float64))
    assert np.max(np.abs(ops.erf(x) - want) / np.spacing(want.astype(np.float32)).astype(np.float64)) <= 3
    special = ops.erf(np.array([np.nan, np.inf, -np.inf, -0.0], np.float32))
    np.testing.assert_array_equal(special, np.array([np.nan, 1, -1, -0.0], np.float32))
    assert np.signbit(special[3])


def test_narrow_floats_are_rounded_once():
    x = np.linspace(-3, 3, 1000).astype(np.float16)
    for op in (ops.gelu, ops.sigmoid, ops.exp, ops.tanh):
        np.testing.assert_array_equal(op(x), op(x.astype(np.float32)).astype(np.float16))
    ones = np.ones(70000, np.float16)
    assert ops.reduce_sum(ones, axes=(0,)) == np.inf  # 70000 is beyond float16, but
    assert ops.mean(ones, axes=(0,)) == 1


def test_python_numbers_are_weak_operands():
    x = np.arange(3, dtype=np.float32)
    for got in (
        ops.add.reference(x, 2.0),
        ops.pow_.reference(2.0, x),
        ops.maximum.reference(x, 1),
        ops.div.reference(1, x),
    ):
        assert got.dtype == np.float32


def test_eager_calls_do_not_warn(recwarn):
    x = np.array([0.0, -1.0, np.inf, 1e38], np.float32)
    for op in (ops.log, ops.exp, ops.sqrt, ops.div, ops.mul, ops.softmax):
        op(*[x] * len(op.operands), **({"axis": 0} if op.name == "softmax" else {}))
    assert not recwarn.list


def test_cross_entropy_names_a_bad_target():
    with pytest.raises(IndexError, match="target 5 is out of range for 3 classes"):
        ops.cross_entropy(np.zeros((2, 3), np.float32), np.array([1, 5]))


def test_bool_is_not_a_number():
    with pytest.raises(TypeError, match="not bool"):
        ops.add.result_types((TensorType(bool_, (3,)),) * 2, {})


# ------------------------------------------------------------------ symbolic sizes

N = symbol("n", 2)


def with_symbolic_rows(t: TensorType) -> TensorType:
    return t.with_shape((N, *t.shape[1:]))


ROWS = np.random.default_rng(7).standard_normal((5, 3)).astype(np.float32)
SYMBOLIC = {
    "mean": ((ROWS,), {"axes": (0,)}),
    "var": ((ROWS,), {"axes": (0, 1), "correction": 1}),
    "logsumexp": ((ROWS,), {"axes": (0,)}),
    "softmax": ((ROWS,), {"axis": 0}),
    "log_softmax": ((ROWS,), {"axis": 1}),
    "layer_norm": ((ROWS, ROWS, ROWS), {"ndim_normalized": 2, "eps": 1e-5}),
    "rms_norm": ((ROWS, ROWS), {"ndim_normalized": 2, "eps": 1e-5}),
    "batch_stats": ((ROWS,), {}),
    "cross_entropy": ((ROWS, np.array([0, 2, 1, 1, 0])), {}),
    "reduce_sum": ((ROWS,), {"axes": (0,)}),
    "reduce_prod": ((ROWS * (ROWS > -1),), {"axes": (0,)}),
    "reduce_max": ((ROWS,), {"axes": (0, 1)}),
    "gelu": ((ROWS,), {"approximate": "none"}),
}


@pytest.mark.parametrize("op", [REGISTRY[n] for n in SYMBOLIC], ids=name)
def test_symbolic_sizes(op):
    """Decomposition and rule recorded for n rows are right for 5."""
    args, attrs = SYMBOLIC[op.name]
    results = outputs(op(*args, **attrs))
    gs = tuple(np.asarray(np.cos(np.arange(r.size)).reshape(r.shape).astype(r.dtype)) for r in results)
    with GraphBuilder() as b:
        inputs = tuple(b.input(with_symbolic_rows(t)) for t in types_of(args))
        forward = outputs((op.decompose or op)(*inputs, **attrs))
        seeds = tuple(b.input(v.type) for v in forward)
        types = tuple(v.type for v in inputs)
        needs = tuple(t.dtype.is_floating for t in types)
        backward = op.vjp(VjpContext(inputs, forward, types, attrs, needs), *seeds)
        graph = b.finish((*forward, *(g for g in backward if g is not None)))
    want = (*results, *(g for g in gradients(op, args, attrs, gs) if g is not None))
    for got, w in zip(run(graph, (*args, *gs)), want, strict=True):
        assert_close(got, w, 2e-6, op.name)
