"""Dynamic programs as people write them, compiled whole and compared with plain Python."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tracefuse.nn.functional as F

import tracefuse as tr
from tracefuse import nn

_spec = importlib.util.spec_from_file_location("programs_harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)


def normal(seed, *shape):
    return tr.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_greedy_decoding_until_the_end_token():
    net = harness.decoder()

    def generate(hidden, first):
        token, length = first, 0
        tokens = tr.zeros(20, dtype=tr.int64)
        while length < 20 and token != 3:
            logits, hidden = net(token, hidden)
            token = logits.argmax()
            tokens = tr.where(tr.arange(20) == length, token, tokens)
            length += 1
        return tokens, length

    calls = [(normal(k, 16), tr.tensor(k % 11)) for k in range(6)]
    compiled = harness.compare(generate, calls, most=2)
    assert any("while(" in str(t.graph) for t in compiled.traces)


def test_sampling_decoder_draws_the_same_tokens():
    net = harness.decoder()

    def generate(hidden, steps):
        token = tr.tensor(1)
        out = []
        for _ in range(steps):
            logits, hidden = net(token, hidden)
            p = F.softmax(logits * 2.0, dim=-1)
            token = tr.searchsorted(tr.cumsum(p, axis=-1), tr.rand(1))[0].clip(0, 10)
            out.append(token)
            if token == 3:
                break
        return tr.stack(out)

    compiled = tr.compile(generate, fullgraph=True)
    for k in range(6):
        hidden = normal(k, 16)
        tr.manual_seed(k)
        want = generate(hidden, 5)
        tr.manual_seed(k)
        harness.equal(compiled(hidden, 5), want)


def test_beam_search():
    net = harness.decoder()
    beams, vocabulary = 3, 11

    def search(hidden, steps):
        scores = tr.tensor([0.0, -1e9, -1e9])
        tokens = tr.zeros(beams, dtype=tr.int64) + 1
        hidden = tr.stack([hidden] * beams)
        histories = tr.zeros(beams, steps, dtype=tr.int64)
        done = tr.zeros(beams, dtype=tr.bool)
        for i in range(steps):
            logits, new = net(tokens, hidden)
            logp = F.log_softmax(logits, dim=-1)
            stay = tr.where(tr.arange(vocabulary) == 3, 0.0, -1e9)
            logp = tr.where(done[:, None], stay, logp)
            flat = (scores[:, None] + logp).reshape(-1)
            scores, best = tr.topk(flat, beams)
            parent, tokens = best // vocabulary, best % vocabulary
            hidden, histories, done = new[parent], histories[parent], done[parent]
            histories[:, i] = tokens
            done = done | (tokens == 3)
            if done.all():
                break
        return histories, scores

    harness.compare(search, [(normal(k, 16), 6) for k in range(4)], most=8)


def test_newton_with_damping():
    def solve(x):
        for _ in range(60):
            f = x**3 - 2 * x - 5
            if tr.abs(f).max() < 1e-5:
                break
            step = f / (3 * x**2 - 2)
            while tr.abs(step).max() > 1.0:
                step = step * 0.5
            x = x - step
        return x

    harness.compare(solve, [(tr.tensor([2.0, 3.0]),), (tr.tensor([5.0, 1.5]),)])


def test_k_means_until_nothing_moves():
    def cluster(points, centers):
        rounds = 0
        moved = tr.tensor(True)
        while moved and rounds < 50:
            distances = ((points[:, None, :] - centers[None, :, :]) ** 2).sum(-1)
            owner = distances.argmin(-1)
            chosen = (owner[:, None] == tr.arange(centers.shape[0])).astype(tr.float32)
            counts = chosen.sum(0)
            new = (chosen.mT @ points) / tr.maximum(counts, tr.tensor(1.0))[:, None]
            new = tr.where(counts[:, None] > 0, new, centers)
            moved = (tr.abs(new - centers) > 1e-6).any()
            centers = new
            rounds += 1
        return centers, rounds

    calls = []
    for k in range(4):
        points = normal(k, 40, 2) + tr.tensor(
            np.repeat([[0, 0], [6, 6], [0, 7], [8, 0]], 10, axis=0).astype(np.float32)
        )
        calls.append((points, points[::10] + 0.1))
    compiled = harness.compare(cluster, calls, most=1)
    assert "while(" in str(compiled.traces[0].graph)


def test_adaptive_runge_kutta():
    def derivative(t, y):
        return tr.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]])

    def integrate(y, end):
        t = tr.tensor(0.0)
        h = tr.tensor(0.1)
        accepted = rejected = 0
        while t < end and accepted + rejected < 500:
            h = tr.minimum(h, end - t)
            k1 = derivative(t, y)
            k2 = derivative(t + h / 2, y + h / 2 * k1)
            k3 = derivative(t + 3 * h / 4, y + 3 * h / 4 * k2)
            new = y + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
            k4 = derivative(t + h, new)
            error = tr.abs(h * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4)).max()
            if error < 1e-4:
                t, y = t + h, new
                accepted += 1
            else:
                rejected += 1
            h = h * (0.9 * (1e-4 / (error + 1e-10)) ** (1 / 3)).clip(0.2, 4.0)
        return y, accepted + rejected > 0

    compiled = tr.compile(integrate, fullgraph=True)
    for y, end in ((tr.tensor([2.0, 0.0]), tr.tensor(3.0)), (tr.tensor([0.5, 0.5]), tr.tensor(1.0))):
        got, want = compiled(y, end), integrate(y, end)
        np.testing.assert_allclose(got[0].numpy(), want[0].numpy(), rtol=1e-3, atol=1e-3)
    assert compiled.cache_info()["traces"] == 1 and not compiled.fallbacks


def test_particles_that_bounce_and_collide():
    def simulate(x, v, steps):
        hits = 0
        for _ in range(steps):
            x = x + 0.05 * v
            outside = (x < 0) | (x > 1)
            v = tr.where(outside, -v, v)
            x = x.clip(0.0, 1.0)
            distance = ((x[:, None] - x[None, :]) ** 2).sum(-1) + tr.eye(x.shape[0]) * 9
            if distance.min() < 0.002:  # the closest two swap their velocities
                at = int(distance.argmin())
                i, j = at // x.shape[0], at % x.shape[0]
                v = v.clone()
                kept = v[i].clone()
                v[i] = v[j]
                v[j] = kept
                hits += 1
        return x, v, hits

    rng = np.random.default_rng(1)
    calls = [
        (tr.tensor(rng.random((4, 2), np.float32)), tr.tensor(rng.standard_normal((4, 2)).astype(np.float32)), 4)
        for _ in range(5)
    ]
    harness.compare(simulate, calls)


def test_child_sum_tree_lstm():
    class TreeLSTM(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.iou = nn.Linear(2 * width, 3 * width)
            self.f = nn.Linear(2 * width, width)
            self.leaf = nn.Linear(width, width)

        def forward(self, tree, words):
            if isinstance(tree, int):
                h = tr.tanh(self.leaf(words[tree]))
                return h, h * 0
            children = [self.forward(t, words) for t in tree]
            h = sum(c[0] for c in children[1:]) + children[0][0]
            x = words[0]
            i, o, u = tr.split(self.iou(tr.concat([x, h])), 3) if False else self.iou(tr.concat([x, h])).chunk(3)
            c = tr.sigmoid(i) * tr.tanh(u)
            for hk, ck in children:
                c = c + tr.sigmoid(self.f(tr.concat([x, hk]))) * ck
            return tr.sigmoid(o) * tr.tanh(c), c

    tr.manual_seed(0)
    net = TreeLSTM(8)
    trees = [(0, 1), ((0, 1), 2), ((0, (1, 2)), (3, 4)), (0, 1)]
    harness.compare(
        lambda words, tree: net(tree, words)[0], [(normal(k, 5, 8), t) for k, t in enumerate(trees)], most=3
    )


def test_mixture_of_experts_with_routing():
    tr.manual_seed(0)
    experts = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)]).requires_grad_(False)
    gate = nn.Linear(6, 3).requires_grad_(False)

    def forward(x):
        owner = gate(x).argmax(-1)
        out = tr.zeros_like(x)
        for k, expert in enumerate(experts):
            mine = owner == k
            if mine.any():
                out = tr.where(mine[:, None], expert(x), out)
        return out

    harness.compare(forward, [(normal(k, 4, 6),) for k in range(6)], most=8)


def test_early_exit_network():
    tr.manual_seed(0)
    blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)]).requires_grad_(False)
    heads = nn.ModuleList([nn.Linear(8, 3) for _ in range(4)]).requires_grad_(False)

    def forward(x):
        for depth, (block, head) in enumerate(zip(blocks, heads)):
            x = block(x) * 3
            p = F.softmax(head(x), dim=-1)
            if p.max() > 0.6:
                return p, depth
        return p, -1

    harness.compare(forward, [(normal(k, 8),) for k in range(10)], most=6)


def test_policy_gradient_on_a_walk():
    def make():
        tr.manual_seed(2)
        policy = nn.Linear(1, 2)
        opt = tr.optim.SGD(policy.parameters(), lr=0.05)

        def episode(start, noise):
            position, total, losses = start, 0.0, []
            for k in range(5):
                logits = policy(position.reshape(1))
                p = F.softmax(logits, dim=-1)
                go_right = bool(noise[k] < p[1])
                losses.append(-F.log_softmax(logits, dim=-1)[1 if go_right else 0])
                position = position + (1.0 if go_right else -1.0)
                total += 1.0 if go_right else -0.5
                if position > 2.5:
                    break
            loss = sum(losses[1:], losses[0]) * total
            loss.backward()
            opt.step()
            opt.zero_grad()
            return total

        return policy, episode

    (plain_policy, plain), (policy, episode) = make(), make()
    compiled = tr.compile(episode, fullgraph=True)
    for k in range(12):
        noise = tr.tensor(np.random.default_rng(k).random(5).astype(np.float32))
        harness.equal(compiled(tr.tensor(0.0), noise), plain(tr.tensor(0.0), noise))
    harness.equal(policy.weight, plain_policy.weight)


def test_ragged_batches():
    def pooled(sequences, lengths):
        out = []
        for s, n in zip(sequences, lengths):
            out.append(s[:n].mean(0) if n > 0 else s[0] * 0)
        return tr.stack(out)

    calls = [([normal(k + j, 5, 3) for j in range(3)], lengths) for k, lengths in enumerate(([1, 2, 3], [5, 0, 2]))]
    harness.compare(pooled, calls)


@pytest.mark.parametrize("shape", [(3, 4), (6, 6)])
def test_power_iteration_and_deflation(shape):
    def leading(A):
        B = A.mT @ A
        u = tr.ones(B.shape[0]) / B.shape[0] ** 0.5
        value = tr.tensor(0.0)
        for _ in range(200):
            w = B @ u
            new = tr.sqrt((w * w).sum())
            u = w / new
            if tr.abs(new - value) < 1e-5 * new:
                break
            value = new
        return value

    compiled = tr.compile(leading, fullgraph=True)
    for k in range(3):
        A = normal(k, *shape)
        np.testing.assert_allclose(compiled(A).numpy(), leading(A).numpy(), rtol=1e-3)
    assert not compiled.fallbacks
