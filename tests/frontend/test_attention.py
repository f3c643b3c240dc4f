"""Attention in compiled functions: one op while tracing, the same results, and no more work than its parts on the CPU."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tracefuse.nn.functional as F
from tracefuse.ir.graph import Graph
from tracefuse.passes.fuel import Fuel
from tracefuse.passes.pipeline import Report, compile_graph
from tracefuse.runtime.executable import default_target

import tracefuse as tr
from tracefuse import nn, optim

GRADIENTS = ("attention_keys", "attention_queries")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def counted(graph: Graph) -> Counter[str]:
    return Counter(n.op.name for n in graph.nodes)


def operands(*shapes: tuple[int, ...]) -> list:
    return [tr.tensor(normal(*s, seed=i), requires_grad=True) for i, s in enumerate(shapes)]


SHAPES = ((2, 4, 6, 8), (2, 4, 7, 8), (2, 4, 7, 5))
GROUPED = ((2, 4, 6, 8), (2, 2, 7, 8), (2, 2, 7, 8))
BOOLEAN, ADDED = normal(6, 7) > 0, normal(2, 1, 6, 7, seed=3)
BOOLEAN[2] = False  # a row that sees nothing
MODES = [
    {},
    {"is_causal": True},
    {"scale": 0.3},
    {"attn_mask": BOOLEAN},
    {"attn_mask": ADDED},
    {"dropout_p": 0.4},
    {"attn_mask": BOOLEAN, "dropout_p": 0.4},
]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("mode", MODES, ids=lambda m: "+".join(m) or "plain")
def test_compiled_attention_is_one_op_with_the_eager_results(mode, grouped):
    """Random numbers and gradients included, those of an additive mask too."""
    mode = {k: tr.tensor(v, requires_grad=v.dtype == np.float32) if k == "attn_mask" else v for k, v in mode.items()}

    def loss(q, k, v):
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped, **mode)
        (out * out).sum().backward()
        return out.detach()

    found = []
    for function in (loss, compiled := tr.compile(loss, fullgraph=True)):
        given = operands(*(GROUPED if grouped else SHAPES))
        if isinstance(mask := mode.get("attn_mask"), tr.Tensor):
            mask.grad = None
        tr.manual_seed(5)
        out = function(*given)
        after = tr.random.default_generator.get_state()
        grads = [x.grad.numpy() for x in (*given, mask) if x is not None and x.requires_grad]
        found.append([out.numpy(), after.numpy(), *grads])
    for got, want in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    count = counted(compiled.traces[0].graph)
    assert [count[n] for n in ("attention", *GRADIENTS)] == [1, 1, 1]


def test_the_gradients_share_the_weights_of_the_forward_pass():
    """Two products forward, four backward, and one exponential of the scores."""

    @tr.compile(fullgraph=True)
    def loss(q, k, v):
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

    loss(*operands(*SHAPES))
    report = Report()
    compile_graph(loss.traces[0].graph, default_target(), report=report)
    assert report.graph is not None
    count = counted(report.graph)
    assert (count["matmul"], count["exp"]) == (6, 1)
    assert not set(count) & {"attention", *GRADIENTS}


class Block(nn.Module):
    """A block of GPT-2."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.behind = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x):
        b, n, e = x.shape
        parts = self.qkv(self.before(x)).reshape((b, n, 3, self.heads, e // self.heads))
        q, k, v = (tr.permute_dims(parts[:, :, i], (0, 2, 1, 3)) for i in range(3))
        a = F.scaled_dot_product_attention(q, k, v, None, self.dropout, is_causal=True)
        x = x + self.out(tr.permute_dims(a, (0, 2, 1, 3)).reshape((b, n, e)))
        return x + self.down(F.gelu(self.up(self.behind(x))))


@pytest.mark.parametrize("dropout, kernels", [(0.0, 35), (0.2, 37)])
def test_a_training_step_has_no_more_kernels_than_with_composed_attention(dropout, kernels):
    net = Block(32, 4, dropout)
    opt = optim.AdamW(net.parameters(), lr=1e-3)

    @tr.compile(fullgraph=True)
    def step(x):
        loss = (net(x) ** 2).mean()
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    step(tr.tensor(normal(2, 16, 32)))
    report = Report()
    plan = compile_graph(step.traces[0].graph, default_target(), Fuel(), report=report)
    assert report.graph is not None and counted(report.graph)["matmul"] == 18
    assert len(plan.steps) <= kernels


def test_second_derivatives():
    q, k, v = (x.detach() for x in operands((3, 4), (5, 4), (5, 4)))

    def slope(q, k, v):
        return (
            tr.func.grad(lambda x: (F.scaled_dot_product_attention(x, k, v, is_causal=True) ** 2).sum())(q) ** 2
        ).sum()

    want = tr.func.grad(slope, argnums=(0, 1, 2))(q, k, v)
    got = tr.compile(tr.func.grad(slope, argnums=(0, 1, 2)), fullgraph=True)(q, k, v)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=1e-4, atol=1e-4)


def test_many_lanes_in_a_trace():
    """Lanes are batch dimensions; where each lane draws numbers of its own, it is computed in parts."""
    q, k, v = (x.detach() for x in operands((3, 5, 4), (5, 4), (5, 4)))

    def lanes(dropout: float):
        def one(q):
            return F.scaled_dot_product_attention(q, k, v, None, dropout)

        return tr.func.vmap(one, randomness="different")

    for dropout, ops in ((0.0, 1), (0.5, 0)):
        compiled = tr.compile(lambda q, f=lanes(dropout): f(q), fullgraph=True)
        tr.manual_seed(1)
        want = lanes(dropout)(q).numpy()
        tr.manual_seed(1)
        np.testing.assert_allclose(compiled(q).numpy(), want, rtol=1e-5, atol=1e-6)
        assert counted(compiled.traces[0].graph)["attention"] == ops


def test_multihead_attention_without_weights_is_one_op():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = tr.tensor(normal(2, 5, 8))
    compiled = tr.compile(lambda x: layer(x, x, x, need_weights=False)[0], fullgraph=True)
    np.testing.assert_allclose(
        compiled(x).detach().numpy(), layer(x, x, x, need_weights=False)[0].detach().numpy(), rtol=1e-5, atol=1e-6
    )
    assert counted(compiled.traces[0].graph)["attention"] == 1
