"""Programs whose loops run for as long as the numbers say: compiled whole, with native loops, and compared with plain
Python."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import numpy as np
import tracefuse.nn.functional as F

import tracefuse as tr
from tracefuse import nn, optim

_spec = importlib.util.spec_from_file_location("programs_harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

END = 3


def normal(seed, *shape):
    return tr.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def runs_whole(make, calls, loop="while("):
    """`make()` gives a function and what it changes. Compiled and plain ones go through the same calls, each from the same
    random numbers: equal results and changes, no call in plain Python, a native loop."""
    (plain, theirs), (function, ours) = make(), make()
    compiled = tr.compile(function, fullgraph=True)
    for k, args in enumerate(calls):
        tr.manual_seed(k)
        want, state = plain(*copy.deepcopy(args)), tr.get_rng_state()
        tr.manual_seed(k)
        harness.equal(compiled(*copy.deepcopy(args)), want)
        harness.equal(tr.get_rng_state(), state)
        harness.equal(ours(), theirs())
    info = compiled.cache_info()
    assert not info["fallbacks"] and not info["eager"], info
    assert any(loop in str(t.graph) for t in compiled.traces), [t.notes for t in compiled.traces]
    return compiled


def pure(function):
    return lambda: (function, lambda: None)


def test_sampling_with_a_temperature_the_best_few_and_an_end():
    net = harness.decoder()

    def generate(hidden, temperature):
        tokens = tr.zeros(60, dtype=tr.int64)
        token, score = tr.tensor(1), 0.0
        for length in range(60):
            logits, hidden = net(token, hidden)
            best, which = tr.topk(logits / temperature, 4)
            p = tr.cumsum(F.softmax(best, dim=-1), axis=-1)
            choice = (tr.rand(1) > p).sum().clip(0, 3)
            token = which[choice]
            score += F.log_softmax(logits, dim=-1)[token].item()
            tokens[length] = token
            if token == END:
                return tokens, length + 1, score
        return tokens, 60, score

    runs_whole(pure(generate), [(normal(k, 16), t) for k in range(3) for t in (0.5, 2.0)])


def test_beam_search_until_all_beams_have_ended():
    net, beams, vocabulary = harness.decoder(), 3, 11

    def search(hidden):
        scores, tokens = tr.tensor([0.0, -1e9, -1e9]), tr.ones(beams, dtype=tr.int64)
        hidden = tr.stack([hidden] * beams)
        histories = tr.zeros(beams, 40, dtype=tr.int64)
        done = tr.zeros(beams, dtype=tr.bool)
        i = 0
        while i < 40 and not done.all():
            logits, new = net(tokens, hidden)
            logp = F.log_softmax(logits, dim=-1)
            logp = tr.where(done[:, None], tr.where(tr.arange(vocabulary) == END, 0.0, -1e9), logp)
            scores, best = tr.topk((scores[:, None] + logp).reshape(-1), beams)
            parent, tokens = best // vocabulary, best % vocabulary
            hidden, histories, done = new[parent], histories[parent], done[parent] | (tokens == END)
            histories[:, i] = tokens
            i += 1
        return histories, scores, i

    runs_whole(pure(search), [(normal(k, 16),) for k in range(5)])


def test_bisection_and_newton_with_a_safeguard():
    def root(low, high, c):
        f = lambda x: x * x * x - c * x - 2  # noqa: E731
        steps = 0
        x = (low + high) / 2
        while True:
            value = f(x)
            if tr.abs(value) < 1e-4:
                return x, steps
            if value > 0:
                high = x
            else:
                low = x
            newton = x - value / (3 * x * x - c)
            x = newton if low < newton and newton < high else (low + high) / 2
            steps += 1
            assert steps < 200, "no root there"

    calls = [
        (tr.tensor(a), tr.tensor(b), tr.tensor(c)) for a, b, c in ((0.0, 3.0, 1.0), (1.0, 8.0, 0.5), (0.5, 90.0, 3.0))
    ]
    runs_whole(pure(root), calls)


def test_conjugate_gradients_to_a_tolerance():
    def solve(A, b, tolerance):
        x = tr.zeros_like(b)
        r = b - A @ x
        p, rs = r, r @ r
        errors = tr.zeros(100)
        for k in range(100):
            errors[k] = rs
            if rs.sqrt() < tolerance:
                break
            q = A @ p
            alpha = rs / (p @ q)
            x = x + alpha * p
            r = r - alpha * q
            new = r @ r
            p = r + (new / rs) * p
            rs = new
        else:
            raise ArithmeticError("conjugate gradients do not converge")
        return x, errors

    rng = np.random.default_rng(0)
    compiled = tr.compile(solve, fullgraph=True)
    for k in range(4):
        M = rng.standard_normal((12, 12)).astype(np.float32)
        A, b = tr.tensor(M @ M.T + 12 * np.eye(12, dtype=np.float32)), normal(k, 12)
        got, want = compiled(A, b, 1e-3), solve(A, b, 1e-3)
        np.testing.assert_allclose(got[0].numpy(), want[0].numpy(), rtol=1e-3, atol=1e-4)
    assert not compiled.cache_info()["eager"] and "while(" in str(compiled.traces[0].graph)


def test_particles_that_collide():
    def simulate(x, v, steps):
        n, hits = x.shape[0], 0
        for _ in range(steps):
            x = x + 0.03125 * v
            v = tr.where((x < 0) | (x > 1), -v, v)
            x = x.clip(0.0, 1.0)
            distance = tr.abs(x[:, None] - x[None, :]).max(axis=-1) + tr.eye(n) * 9
            if distance.min() < 0.05:  # the closest two swap their velocities
                at = int(distance.argmin())
                i, j = at // n, at % n
                v = v.clone()
                kept = v[i].clone()
                v[i] = v[j]
                v[j] = kept
                hits += 1
        return x, v, hits

    rng = np.random.default_rng(1)
    calls = [(tr.tensor(rng.random((4, 2), np.float32)), normal(k, 4, 2), 200) for k in range(4)]
    runs_whole(pure(simulate), calls)


def test_child_sum_tree_lstm_over_a_table_of_parents():
    """Nodes come before their parents; what a node passes on is added up at its parent."""

    class TreeLSTM(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.width = width
            self.iou, self.forget = nn.Linear(2 * width, 3 * width), nn.Linear(2 * width, width)

        def forward(self, words, parents):
            n = words.shape[0]
            sums, cells = tr.zeros(n + 1, self.width), tr.zeros(n + 1, self.width)
            h = words[0]
            for k in range(n):
                x = words[k]
                i, o, u = self.iou(tr.concat([x, sums[k]])).chunk(3)
                c = tr.sigmoid(i) * tr.tanh(u) + cells[k]
                h = tr.sigmoid(o) * tr.tanh(c)
                parent = parents[k]
                sums[parent] += h
                cells[parent] += tr.sigmoid(self.forget(tr.concat([words[parent.clip(0, n - 1)], h]))) * c
            return h

    tr.manual_seed(0)
    net = TreeLSTM(8).requires_grad_(False)
    rng = np.random.default_rng(0)
    calls = []
    for k in range(3):
        parents = np.array([rng.integers(i + 1, 81) if i < 79 else 80 for i in range(80)])
        calls.append((normal(k, 80, 8), tr.tensor(parents)))
    runs_whole(pure(lambda words, parents: net(words, parents)), calls)


def test_mixture_of_experts_token_by_token():
    tr.manual_seed(0)
    experts = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)]).requires_grad_(False)
    gate = nn.Linear(6, 3).requires_grad_(False)

    def forward(tokens, capacity):
        out, load = tr.zeros_like(tokens), [0, 0, 0]
        dropped = 0
        for t, token in enumerate(tokens):
            owner = gate(token).argmax(-1)
            for k, expert in enumerate(experts):
                if owner == k:
                    if load[k] >= capacity:
                        dropped += 1
                        break
                    out[t] = expert(token)
                    load[k] += 1
        return out, load, dropped

    runs_whole(pure(forward), [(normal(k, 96, 6), c) for k, c in ((0, 20), (1, 40), (2, 96))])


def test_adaptive_computation_time_is_trained():
    def make():
        tr.manual_seed(0)
        net = nn.ModuleDict({"cell": nn.Linear(6, 6), "halt": nn.Linear(6, 1), "out": nn.Linear(6, 2)})
        opt = optim.SGD(net.parameters(), lr=0.1)

        def step(x, target):
            h, total, out, n = x, tr.tensor(0.0), x * 0, 0
            while total < 0.99 and n < 50:
                h = tr.tanh(net["cell"](h))
                p = tr.sigmoid(net["halt"](h)).sum() * 0.25
                left = (1 - total).detach()
                p = left if p > left else p
                out = out + p * h
                total = total + p.detach()
                n += 1
            loss = F.cross_entropy(net["out"](out)[None], target) + 0.01 * n
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss.detach(), n

        return step, lambda: [p.detach() for p in net.parameters()]

    calls = [(normal(k, 6) * (1 + k), tr.tensor([k % 2])) for k in range(6)]
    runs_whole(make, calls, loop="scan(")


def test_policy_gradients_on_a_walk_to_the_goal():
    def make():
        tr.manual_seed(2)
        policy = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        opt = optim.SGD(policy.parameters(), lr=0.05)

        def episode(start):
            position, speed, reward = start, start * 0, 0.0
            logp = policy[0].bias.sum() * 0
            for step in range(80):
                logits = policy(tr.stack([position, speed]))
                right = bool(tr.rand(1)[0] < F.softmax(logits, dim=-1)[1])
                chosen = F.log_softmax(logits, dim=-1)[1 if right else 0]
                logp = logp + chosen
                speed = (speed + (0.25 if right else -0.25)).clip(-1.0, 1.0)
                position = position + speed
                if position > 3:
                    reward += 1.0
                    break
                if position < -3:
                    reward -= 1.0
                    break
                reward -= 0.01
            loss = -logp * reward
            loss.backward()
            opt.step()
            opt.zero_grad()
            return reward, step, position

        return episode, lambda: [p.detach() for p in policy.parameters()]

    runs_whole(make, [(tr.tensor(s),) for s in (0.0, 1.0, -1.0, 0.5, 2.5)], loop="scan(")


def test_ragged_batches_row_by_row():
    def pooled(padded, lengths):
        out = tr.zeros(padded.shape[0], padded.shape[2])
        longest = 0
        for b, n in enumerate(lengths):
            t, total = 0, tr.zeros(padded.shape[2])
            while t < n:
                total = total + padded[b, t] * 0.5
                t += 1
            if t == 0:
                continue
            out[b] = total / n
            longest = max(longest, t)
        return out, longest

    rng = np.random.default_rng(0)
    calls = [(normal(k, 70, 9, 3), tr.tensor(rng.integers(0, 10, 70))) for k in range(3)]
    runs_whole(pure(pooled), calls)


def test_k_means_until_no_point_moves():
    def cluster(points, centers):
        owners = tr.zeros(points.shape[0], dtype=tr.int64) - 1
        for rounds in range(100):
            distances = ((points[:, None, :] - centers[None, :, :]) ** 2).sum(-1)
            new = distances.argmin(-1)
            if (new == owners).all():
                break
            owners = new
            for k in range(centers.shape[0]):
                mine = (owners == k).astype(tr.float32)
                if mine.sum() > 0:
                    centers[k] = (points * mine[:, None]).sum(0) / mine.sum()
        return centers, owners, rounds

    blobs = tr.tensor(np.repeat([[0, 0], [6, 6], [0, 7], [8, 0]], 10, axis=0).astype(np.float32))
    calls = [(normal(k, 40, 2) + blobs, (normal(k, 40, 2) + blobs)[::10].clone()) for k in range(4)]
    runs_whole(pure(cluster), calls)


def test_an_ode_whose_solver_picks_its_steps_and_gives_gradients():
    def derivative(y, mu):
        return tr.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])

    def end_point(mu, y, end):
        t, h, rejected = tr.tensor(0.0), tr.tensor(0.125), 0
        while t < end:
            h = h if t + h < end else (end - t).detach()
            k1 = derivative(y, mu)
            k2 = derivative(y + h / 2 * k1, mu)
            k3 = derivative(y + 3 * h / 4 * k2, mu)
            new = y + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
            k4 = derivative(new, mu)
            with tr.no_grad():
                error = tr.abs(h * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4)).max()
                accept = bool(error < 1e-3)
                growth = 2.0 if error < 1e-4 else 1.0 if accept else 0.5
            if accept:
                t, y = t + h, new
            else:
                rejected += 1
            h = h * growth
        return (y * y).sum(), rejected

    slope = tr.value_and_grad(end_point, has_aux=True)
    compiled = tr.compile(lambda *args: slope(*args), fullgraph=True)
    for mu, end in ((0.5, 2.0), (1.0, 3.0)):
        args = (tr.tensor(mu), tr.tensor([2.0, 0.0]), tr.tensor(end))
        (got, _), g = compiled(*args)
        (want, _), w = slope(*args)
        np.testing.assert_allclose(float(got), float(want), rtol=1e-3)
        np.testing.assert_allclose(float(g), float(w), rtol=1e-2)
    assert not compiled.cache_info()["eager"] and any("scan(" in str(t.graph) for t in compiled.traces)
