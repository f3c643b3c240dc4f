"""`tr.explain`: it says what was captured, and runs nothing."""

import json

import numpy as np
import pytest
from tracefuse.frontend.costs import kernel_cost, operation_cost
from tracefuse.frontend.explain import explain, quantity
from tracefuse.frontend.nn import functional as F

import tracefuse as tr
from tracefuse import nn, optim


def chain(x, y):
    return F.gelu(x + y) * 2.0


def test_one_fused_kernel():
    e = explain(chain, tr.rand(32, 16), tr.rand(16))
    (trace,) = e.traces
    (kernel,) = trace.kernels
    assert e.name == "chain" and not e.reason and not e.fallbacks
    assert {"add", "gelu", "mul"} <= set(kernel.ops)
    assert kernel.read == 4 * (32 * 16 + 16) and kernel.written == 4 * 32 * 16
    assert kernel.flops > 32 * 16 * 20
    assert kernel.phases and all(n >= 1 for _, n in kernel.phases)
    assert all(s.startswith("test_explain.py:") for s in kernel.sources)
    assert "F.gelu" in trace.lines[kernel.sources[0]]
    assert trace.memory is not None and trace.memory.arena == 0 and trace.memory.outputs == 4 * 32 * 16
    assert trace.seconds and trace.nodes >= 3 and trace.optimized_nodes >= 3
    text = str(e)
    assert "captured graph" in text and "graph @chain" in text and "kernel 0" in text and "return F.gelu" in text
    assert "captured graph" not in e.summary() and "1 kernels" in e.summary()
    assert json.loads(json.dumps(e.to_dict()))["traces"][0]["kernels"][0]["name"] == kernel.name


def test_a_training_step_is_explained_without_taking_it():
    net = nn.Linear(6, 3)
    opt = optim.SGD(net.parameters(), lr=0.1)

    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    before = net.weight.numpy().copy()
    compiled = tr.compile(step)
    e = explain(compiled, tr.rand(4, 6), tr.tensor([0, 1, 2, 0]))
    np.testing.assert_array_equal(net.weight.numpy(), before)
    (trace,) = e.traces
    assert trace.memory is not None
    assert set(trace.memory.in_place + trace.memory.copied) == {"net.weight", "net.bias"}
    assert any("net.weight" in g for g in trace.guards)
    assert compiled.cache_info()["traces"] == 1  # made by explain
    compiled(tr.rand(4, 6), tr.tensor([0, 1, 2, 0]))
    assert compiled.cache_info()["misses"] == 0 and compiled.cache_info()["hits"] == 1
    again = explain(compiled)
    assert again.traces[0].calls == 1 and again.cache["hits"] == 1
    assert trace.entry == "not called" and again.traces[0].entry in ("native", "python")


def test_a_forward_with_a_history_shows_its_backward_graph():
    net = nn.Linear(6, 3)
    e = explain(net, tr.rand(4, 6))
    assert len(e.traces) == 2 and e.traces[1].name.endswith("_backward") and e.traces[1].kernels


def test_what_cannot_be_captured_says_why():
    def f(x):
        return x.numpy().tolist()

    e = explain(f, tr.ones(2))
    assert not e.traces and "test_explain.py" in e.reason and "not captured" in str(e)


def test_the_reference_backend_has_graphs_only():
    e = explain(tr.compile(chain, backend="reference"), tr.rand(4), tr.rand(4))
    (trace,) = e.traces
    assert not trace.kernels and trace.memory is None and "add" in trace.graph


def test_costs():
    from tracefuse.frontend.introspect import compiled_of, native_of, trace_of

    def product(a, b):
        return a @ b

    compiled, _, _ = compiled_of(product)
    executable = native_of(trace_of(compiled, (tr.rand(32, 48), tr.rand(48, 64)), {}).executable)
    assert executable is not None
    cost = kernel_cost(executable.plan.steps[-1].kernel)
    assert cost.flops == 2 * 32 * 48 * 64 and cost.read == 4 * (32 * 48 + 48 * 64) and cost.written == 4 * 32 * 64
    assert operation_cost("add") == 1 and operation_cost("fma") == 2 and operation_cost("exp") > 5
    assert operation_cost("load") == 0


@pytest.mark.parametrize("n, text", [(12, "12 B"), (1500, "1.5 kB"), (2_000_000, "2 MB"), ("n*4", "(n*4) B")])
def test_quantities(n, text):
    assert quantity(n, "B") == text


def branches(x):
    if x.sum() > 0:
        return x * 2
    return x - 1


def grows(x):
    seen = []
    while x.abs().sum() > 1:
        x = x * 0.5
        seen.append(x)
    return seen


def test_questions_and_answers_are_shown_as_a_tree():
    f = tr.compile(branches)
    for v in (1.0, -1.0, 2.0, 3.0):
        f(tr.full((3,), v))
    e = explain(f)
    text = "\n".join(e.tree)
    assert "asks for a bool: if x.sum() > 0:" in text and "True: 3 calls" in text and "False: 1 calls" in text
    assert {t.answers[0][1] for t in e.traces} == {"True", "False"} and "where test_explain.py" in e.summary()


def test_loops_that_run_step_by_step_say_why():
    e = explain(grows, tr.full((3,), 1.0))
    assert "the loop runs step by step" in e.summary() and "list" in e.traces[0].notes[0]


def test_the_page_stands_alone():
    page = explain(branches, tr.ones(3)).to_html()
    assert page.startswith("<!doctype html>") and page.count("<html") == page.count("</html>") == 1
    assert "x.sum() &gt; 0" in page and "<script" not in page and "http" not in page
