"""Graphs print, and parse back to equal graphs; text that is no graph is refused, whatever it is."""

from __future__ import annotations

import dataclasses
import random

import ml_dtypes
import numpy as np
import pytest
from tracefuse.ir import dtypes, ops
from tracefuse.ir.dim import symbol
from tracefuse.ir.dtypes import from_numpy
from tracefuse.ir.graph import GraphBuilder, InputSpec, Location, OutputSpec, Signature
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.text import InvalidGraph, equal_graphs, format_graph, graph_key, parse_graph
from tracefuse.ir.types import TensorType
from tracefuse.ir.verify import ATTRIBUTES, verify


def example_graph():
    """Symbolic sizes, constants, locations, a write, an attribute output, results returned as inputs."""
    n = symbol("n", 2)
    b = GraphBuilder("net.forward")
    x = b.input(TensorType(dtypes.float32, (n, 4)), "x")
    w = b.input(TensorType(dtypes.float32, (4, 3)), "w")
    c = b.constant(np.array([0.1, -0.0, np.inf], np.float32), "bias")
    big = b.constant(np.arange(40, dtype=np.float64).reshape(8, 5), "table")
    b.loc = Location("/home/me/model.py", 12)
    y = ops.add(ops.matmul(x, w), c)
    b.loc = Location("/home/me/odd, name (1).py", 7)
    z = ops.reduce_sum(ops.reshape(y, shape=(n * 3,)), axes=(0,))
    k = ops.cast(ops.reduce_max(big, axes=(0, 1)), dtype=dtypes.float16)
    p = ops.pad(ops.slice_(y, start=(1, 0), stop=(n, 3), step=(2, 1)), low=(0, 1), high=(2, 0), value=float("-inf"))
    outs = (p, z, ops.mul(w, w), x, k)
    spec = Signature(
        (InputSpec('batch["x"]'), InputSpec("net.w", "state", "net.w")),
        (
            OutputSpec(),
            OutputSpec("attr", path="net.loss"),
            OutputSpec("write", 1),
            OutputSpec("result", 0),
            OutputSpec(),
        ),
    )
    return b.finish(outs, spec)


def data_of(graph):
    return {v.name: array for v, array in graph.constants.items()}


def assert_round_trip(graph):
    verify(graph)
    text = format_graph(graph)
    again = parse_graph(text, data_of(graph))
    verify(again)
    assert equal_graphs(graph, again)
    assert format_graph(again) == text
    inlined = format_graph(graph, data=True)
    assert equal_graphs(parse_graph(inlined, data_of(graph)), graph)


def graph_of(op, sample):
    b = GraphBuilder(op.name)
    types = [TensorType(from_numpy(a.dtype), a.shape) for a in sample.args]
    inputs = tuple(b.input(t, f"x{k}") for k, t in enumerate(types))
    return b.finish(b.emit(op, inputs, sample.attrs))


def test_a_graph_reads_as_expected():
    b = GraphBuilder("f")
    n = symbol("n", 1)
    x = b.input(TensorType(dtypes.float32, (n, 4)), "x")
    c = b.constant(np.array([1.0, 2.5, -0.0, np.nan], np.float32), "c")
    b.loc = Location("/a/model.py", 3)
    y = ops.reduce_sum(ops.mul(x, c), axes=(1,))
    graph = b.finish([y], Signature((InputSpec("x"),), (OutputSpec("attr", path="net.g"),)))
    assert format_graph(graph, data=True).split("\n") == [
        "graph @f(%x: f32[n, 4]) -> (%1) {",
        "  sym n in [1, inf]",
        "  const %c: f32[4] = [1.0, 2.5, -0.0, nan]",
        "  %0: f32[n, 4] = mul(%x, %c)  # model.py:3",
        "  %1: f32[n] = reduce_sum(%0, axes=(1,))  # model.py:3",
        '  in %x "x" arg',
        '  out %1 attr "net.g"',
        "}",
    ]
    assert str(graph) == format_graph(graph)


def test_everything_at_once_comes_back():
    graph = example_graph()
    assert_round_trip(graph)
    again = parse_graph(format_graph(graph), data_of(graph))
    assert [str(n.loc) for n in again.nodes] == [str(n.loc) for n in graph.nodes]
    assert again.signature == graph.signature and again.name == "net.forward"


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_op_comes_back(name):
    op = REGISTRY[name]
    assert op.samples is not None
    for sample in op.samples():
        assert_round_trip(graph_of(op, sample))


def test_every_attribute_has_a_stated_kind():
    assert {a for op in REGISTRY.values() for a in op.attrs} <= ATTRIBUTES.keys()


@pytest.mark.parametrize("value", [0.1, -0.0, 1e300, 5e-324, float("inf"), float("-inf"), float("nan"), 3, -7, True])
def test_numbers_come_back_exactly(value):
    b = GraphBuilder("g")
    v = b.emit(REGISTRY["full"], (), {"value": value, "shape": (2,), "dtype": dtypes.float64})
    graph = b.finish(v)
    again = parse_graph(format_graph(graph))
    got = again.nodes[0].attrs["value"]
    assert type(got) is type(value) and repr(got) == repr(value)
    assert_round_trip(graph)


@pytest.mark.parametrize("name", ["inf", "nan", "f32", "True", "max", "n"])
def test_sizes_may_be_named_like_literals(name):
    n = symbol(name, 1, 9)
    b = GraphBuilder("g")
    x = b.input(TensorType(dtypes.float32, (n,)), "x")
    m = symbol("m", 0, n)
    y = b.input(TensorType(dtypes.int64, (m,)), "y")
    with b:
        full = ops.full(value=n, shape=(n, m), dtype=dtypes.float32)
        low = ops.pad(x, low=(-n + 9,), high=(n // 2,), value=0.0)
    assert_round_trip(b.finish([x, y, full, low]))


@pytest.mark.parametrize("dtype", [d.np for d in dtypes.ALL])
def test_small_constants_can_be_inline(dtype):
    b = GraphBuilder("g")
    values = np.array([[0, 1, 1], [1, 0, 0]]).astype(dtype)
    if np.dtype(dtype).kind == "f" or dtype == ml_dtypes.bfloat16:
        values = np.array([[0.1, -0.0, 3e4], [np.inf, np.nan, -1e-7]]).astype(dtype)
    graph = b.finish([b.constant(values, "c")])
    again = parse_graph(format_graph(graph, data=True))
    assert equal_graphs(graph, again)
    (array,) = again.constants.values()
    assert array.tobytes() == values.tobytes() and array.shape == (2, 3)


def test_data_that_text_cannot_hold_stays_out():
    b = GraphBuilder("g")
    odd = np.array([0x7FC00001, 0], np.uint32).view(np.float32)
    graph = b.finish([b.constant(odd, "c"), b.constant(np.arange(17), "d")])
    assert " = [" not in format_graph(graph, data=True)
    with pytest.raises(InvalidGraph, match="line 2: constant %c has no data"):
        parse_graph(format_graph(graph))
    assert_round_trip(graph)


def test_equality_sees_what_matters():
    base = example_graph()
    assert equal_graphs(base, example_graph())
    assert not equal_graphs(base, base.with_name("other"))
    assert not equal_graphs(base, dataclasses.replace(base, signature=dataclasses.replace(
        base.signature, outputs=(*base.signature.outputs[:-1], OutputSpec(path="x")))))  # fmt: skip
    constants = {v: a + 1 for v, a in base.constants.items()}
    assert not equal_graphs(base, dataclasses.replace(base, constants=constants))

    def full(value):
        b = GraphBuilder("g")
        return b.finish(b.emit(REGISTRY["full"], (), {"value": value, "shape": (), "dtype": dtypes.float32}))

    different = [full(v) for v in (0, 0.0, -0.0, False, 1, 1.0, True)]
    assert all(equal_graphs(a, b) == (a is b) for a in different for b in different)


def test_the_key_leaves_out_names_and_lines():
    def build(name, loc, other="w"):
        b = GraphBuilder(name)
        b.loc = loc
        x = b.input(TensorType(dtypes.float32, (3,)), name)
        w = b.constant(np.full(3, len(name), np.float32), other)
        spec = Signature((InputSpec(name, "arg", other),), (OutputSpec("attr", path=name), OutputSpec("write", 0)))
        return b.finish([ops.add(x, w), ops.exp(x)], spec)

    a, b = build("f", Location("a.py", 1)), build("hello", None, "bias")
    assert graph_key(a) == graph_key(b) and not equal_graphs(a, b)
    swapped = dataclasses.replace(b, signature=dataclasses.replace(b.signature, outputs=b.signature.outputs[::-1]))
    assert graph_key(swapped) != graph_key(a)


GOOD = """graph @g(%x: f32[n, 4], %i: i64[3]) -> (%2) {
  sym n in [1, 64]
  const %c: f32[4] = [1.0, 2.0, 3.0, 4.0]
  %0: f32[n, 4] = add(%x, %c)
  %1: f32[3, 4] = gather(%0, %i)
  %2: f32[4] = reduce_sum(%1, axes=(0,))
  in %x "x" arg
  in %i "i" arg
  out %2 result
}"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reduce_sum(%1", "explode(%1", "line 6: unknown op explode"),
        ("axes=(0,)", "axes=(7,)", "line 6: .*sorted, unique"),
        ("axes=(0,)", "axes=(0, 1), axes=()", "line 6"),
        ("axes=(0,)", "keepdims=True", "line 6: reduce_sum has the attributes"),
        ("axes=(0,)", 'axes="0"', "line 6: reduce_sum: axes must be a tuple of integers"),
        ("axes=(0,)", "axes=(True,)", "line 6"),
        ("axes=(0,)", f"axes={'(' * 5000}", "line 6"),
        ("axes=(0,)", f"axes={'(' * 5000 + ')' * 5000}", "line 6"),
        ("axes=(0,)", f"axes=({'9' * 5000},)", "line 6"),
        ("axes=(0,)", "axes=(0", "line 6"),
        ("f32[4] = reduce", "f32[3] = reduce", "line 6: reduce_sum gives f32\\[4\\] here"),
        ("f32[4] = reduce", "f33[4] = reduce", "line 6: unknown element type f33"),
        ("add(%x, %c)", "add(%x, %1)", "line 4: %1 is not defined"),
        ("add(%x, %c)", "add(%x)", "line 4: add takes x, y; 1 were given"),
        ("%1: f32[3, 4]", "%0: f32[3, 4]", "line 5: %0 is defined twice"),
        ("sym n in [1, 64]", "sym n in [9, 3]", "line 2: the size n has an empty range"),
        ("  sym n in [1, 64]\n", "", "line 1: the size n is not declared"),
        ("f32[n, 4], %i", "f32[n*n*n*n, 4], %i", "line 4"),
        ("f32[n, 4], %i", "f32[n + " + "(" * 2000 + ", 4], %i", "line 1"),
        ("f32[n, 4], %i", "f32[-1, 4], %i", "line 1: .* negative size"),
        ("f32[n, 4], %i", f"f32[{10**18}, {10**18}], %i", "line 1: .* too large"),
        ("[1.0, 2.0, 3.0, 4.0]", "[1.0, 2.0]", "line 3"),
        ("[1.0, 2.0, 3.0, 4.0]", "[1.0, 2.0, (1,), 4]", "line 3"),
        ("out %2 result", "out %2 write 9", "input 9, which does not exist"),
        ("out %2 result", "out %2 write 0", "cannot be input 0"),
        ("out %2 result", "out %1 result", "in order"),
        ("out %2 result", "out %2 surprise", "unknown kind"),
        ('in %i "i" arg', 'in %i "i" magic', "unknown kind"),
        ('in %i "i" arg\n', "", "line"),
        ("}", "", "line 9: expected `}`"),
        ("graph @g", "graf @g", "line 1: expected `graph"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(old, new, message):
    parse_graph(GOOD)
    text = new.join(GOOD.rsplit(old, 1))
    assert text != GOOD
    with pytest.raises(InvalidGraph, match=message):
        parse_graph(text)


def test_sizes_are_not_expanded_without_bound():
    names = [f"a{k}" for k in range(12)]
    syms = "".join(f"  sym {s} in [1, 9]\n" for s in names)
    bomb = "*".join([f"({' + '.join(names)})"] * 12)
    with pytest.raises(InvalidGraph, match="line 1: size expression .* too large"):
        parse_graph(f"graph @g(%x: f32[{bomb}]) -> (%x) {{\n{syms}}}")


@pytest.mark.parametrize("text", ["", "\n\n", "graph", "}", "graph @g() -> () {", "\x00", None, b"graph", 3])
def test_other_things_are_not_graphs(text):
    with pytest.raises(InvalidGraph, match="line 1"):
        parse_graph(text)


def mutate(text: str, rng: random.Random, spare: list[str]) -> str:
    """A few random edits: characters, numbers, tokens from elsewhere, lines dropped, doubled or swapped."""
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(text)), rng.randrange(7)
        if kind == 0:
            text = text[:at] + chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x3000)))) + text[at + 1 :]
        elif kind == 1:
            text = text[:at] + text[at + rng.randint(1, 9) :]
        elif kind == 2:
            text = text[:at] + rng.choice(spare) + text[at + rng.randint(0, 5) :]
        elif kind == 3:
            numbers = [k for k, c in enumerate(text) if c.isdigit()]
            k = rng.choice(numbers) if numbers else 0
            text = text[:k] + rng.choice(("0", "-1", "7", str(1 << 63), str(10**40), "1e9", "n", "inf")) + text[k + 1 :]
        else:
            lines = text.split("\n")
            a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
            if kind == 4:
                lines.insert(a, lines[b])
            elif kind == 5:
                del lines[a]
            else:
                lines[a], lines[b] = lines[b], lines[a]
            text = "\n".join(lines) or " "
    return text


def test_mutated_text_is_refused_or_still_a_graph():
    rng = random.Random(7)
    graph = example_graph()
    samples = [graph_of(op, s) for op in REGISTRY.values() for s in list(op.samples())[:1]]
    texts = [format_graph(graph), GOOD, *map(format_graph, samples)]
    spare = [
        "%x",
        "%0",
        "(",
        ")",
        "[",
        "]",
        '"',
        ", ",
        "=",
        "nan",
        "-inf",
        "f32",
        "i8",
        "n",
        "//",
        "%",
        "*",
        "# a",
        "\\",
    ]
    spare += ["sym n in [1, 2]\n", "out %0 write 0", "max(n, 2)", "(n // 3)", "()", "None", "{", "}", "_", "²", "\r"]
    refused = 0
    for k in range(6000):
        text = mutate(texts[k % len(texts)], rng, spare)
        try:
            parsed = parse_graph(text, data_of(graph))
        except InvalidGraph as e:
            refused += 1
            assert str(e).startswith("line ")
            continue
        verify(parsed)
        assert equal_graphs(parse_graph(format_graph(parsed), data_of(parsed)), parsed)
    assert 3000 < refused < 6000
