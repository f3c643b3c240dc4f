"""Results whose sizes depend on values: masks, nonzero, unique, repeat. One trace serves all sizes above 1."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr

_spec = importlib.util.spec_from_file_location("programs_harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)
compare = harness.compare

rng = np.random.default_rng(0)


def vectors(n=20, sizes=(0, 1, 2, 3, 7, 19, 20)):
    """Vectors with that many positive elements."""
    for k in sizes:
        x = -np.abs(rng.standard_normal(n)) - 0.1
        x[rng.permutation(n)[:k]] *= -1
        yield (tr.asarray(x.astype(np.float32)),)


def matrices(n=12, m=5, sizes=(0, 1, 2, 5, 11, 12)):
    for (x,) in vectors(n, sizes):
        yield (tr.asarray(rng.standard_normal((n, m)).astype(np.float32)) + 0 * x[:, None], x)


def integers():
    for high in (1, 2, 3, 8, 50):
        yield (tr.asarray(rng.integers(0, high, 15)),)


# ------------------------------------------------------------------ masks


def masked(x):
    return x[x > 0]


def masked_sum_and_count(x):
    y = x[x > 0]
    return y.sum(), len(y), y.shape[0] * 2 + 1


def masked_mean(x):
    y = x[x > 0]
    if len(y) == 0:
        return tr.zeros(())
    return y.mean()


def same_mask_twice(x):
    m = x > 0
    return x[m] * (x * 2)[m] + tr.arange(m.shape[0])[m]


def equal_masks(x):
    return x[x > 0] + (x + 1)[(x * 2) > 0]


def different_masks(x):
    a, b = x[x > 0], x[x < 0]
    return tr.concat([b, a]), len(a) - len(b), len(a) > len(b)


def mask_of_mask(x):
    y = x[x > 0]
    z = y[y > 0.5]
    return z, len(y) - len(z)


def normalised(x):
    y = x[x > 0]
    if y.shape[0] < 2:
        return y
    return (y - y.mean()) / y.std()


def softmax_of_chosen(x):
    y = x[x > 0]
    return y if len(y) == 0 else tr.exp(y - y.max()) / tr.exp(y - y.max()).sum()


def write_back(x):
    m = x > 0
    y = x.clone()
    y[m] = x[m] * 10
    return y


def write_numbers(x):
    y = x.clone()
    y[y < 0] = 0.0
    return y


def written_argument(x):
    x[x > 0] = tr.exp(-x[x > 0])


def added_in_place(x):
    x[x > 0] += 1


def scattered(x):
    at = tr.nonzero(x > 0)[0]
    out = tr.zeros(x.shape[0])
    out[at] = tr.arange(len(at), dtype=tr.float32)
    return out


def sorted_chosen(x):
    return tr.sort(x[x > 0]), tr.argsort(x[x < 0])


def top_two(x):
    y = x[x > 0]
    return tr.topk(y, 2)[0] if len(y) >= 2 else None


def first_and_last(x):
    y = x[x > 0]
    if len(y) == 0:
        return None
    return y[0], y[-1]


def sliced(x):
    y = x[x > 0]
    return y[1:], y[:3], y[::2]


def differences(x):
    y = x[x > 0]
    return y[1:] - y[:-1]


def pairwise(x):
    y = x[x > 0]
    return y[:, None] - y[None, :]


def stacked(x):
    y = x[x > 0]
    return tr.stack([y, y * 2], axis=1).reshape(-1)


def halves(x):
    y = x[x > 0]
    n = len(y) // 2
    return y[:n].sum() - y[n:].sum()


def is_even(x):
    n = len(x[x > 0])
    return "even" if n % 2 == 0 else "odd"


def exactly_seven(x):
    y = x[x > 0]
    return y.reshape(7, 1) if len(y) == 7 else y


def counted_text(x):
    return f"{len(x[x > 0])} of {len(x)} are positive"


def size_as_float(x):
    n = len(x[x > 0])
    return n / 4, float(n), x * n


def only_the_count(x):
    n = tr.nonzero(x > 0)[0].shape[0]
    return tr.ones(n), tr.zeros((n, 2))


def cumulative(x):
    return tr.cumulative_sum(x[x > 0])


def listed(x):
    return [x[x > 0], {"rest": x[x <= 0]}]


def searched(x):
    return tr.searchsorted(tr.sort(x[x > 0]), tr.asarray([0.0, 0.5, 1.0]))


def nonzero_of_ints(x):
    return tr.nonzero(tr.round(x))


def until_few(x):
    y = x
    while len(y) > 3:
        y = y[y > y.mean()]
    return y


VECTOR_PROGRAMS = [
    masked, masked_sum_and_count, masked_mean, same_mask_twice, equal_masks, different_masks, mask_of_mask, normalised,
    softmax_of_chosen, write_back, write_numbers, written_argument, added_in_place, scattered, sorted_chosen, top_two,
    first_and_last, sliced, differences, pairwise, stacked, halves, is_even, exactly_seven, counted_text, size_as_float,
    only_the_count, cumulative, listed, searched, nonzero_of_ints, until_few,
]  # fmt: skip


VECTORS = list(vectors(sizes=(7, 0, 3, 19)))


@pytest.mark.parametrize("backend", ["llvm", "reference"])
@pytest.mark.parametrize("program", VECTOR_PROGRAMS, ids=lambda f: f.__name__)
def test_vectors(program, backend):
    compare(program, vectors(), backend=backend)


# ------------------------------------------------------------------ rows


def rows(x, w):
    return x[w > 0]


def rows_times(x, w):
    y = x[w > 0]
    return y @ y.T, y.T @ y


def columns(x, w):
    return x.T[:, w > 0]


def mask_of_elements(x, w):
    return x[x > 0].sum(), x[x > w[:, None]]


def mask_and_index(x, w):
    return x[w > 0, 1], x[w > 0, 1:3]


def argwhere(x, w):
    return tr.argwhere(x > 1), tr.nonzero(x > 1)


def linear(x, w):
    y = x[w > 0]
    return tr.relu(y @ tr.ones((5, 3))).sum(axis=0)


def write_rows(x, w):
    x[w > 0] = x[w > 0].flip(0)
    return x.sum()


def experts(x, w):
    """Each row goes through one of two networks."""
    out = tr.zeros(x.shape)
    for k, m in enumerate((w > 0, w <= 0)):
        at = tr.nonzero(m)[0]
        if len(at) > 0:
            out[at] = tr.tanh(x[at] * (k + 1))
    return out


def ragged(x, w):
    parts = [row[row > 0] for row in (x[0], x[1], x[2])]
    return tr.concat(parts), [len(p) for p in parts]


@pytest.mark.parametrize(
    "program", [rows, rows_times, columns, mask_of_elements, mask_and_index, argwhere, linear, write_rows, experts, ragged],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_matrices(program):
    compare(program, matrices())


# ------------------------------------------------------------------ what differs, what is repeated


def unique(x):
    return tr.unique(x)


def unique_all(x):
    return tuple(tr.unique_all(x))


def unique_counts(x):
    values, counts = tr.unique_counts(x)
    return values[counts == counts.max()], len(values)


def unique_consecutive(x):
    return tr.unique_consecutive(x, return_inverse=True, return_counts=True)


def unique_rows(x):
    return tr.unique(x.reshape(5, 3) % 2, axis=0, return_inverse=True, return_counts=True)


def repeated(x):
    return tr.repeat(tr.arange(15), x % 4), tr.repeat(x, x % 3 + 1)


def histogram(x):
    return tr.bincount(x), tr.bincount(x, 4), tr.bincount(x, 100)


def groups(x):
    """The sum of each group of equal elements."""
    found = tr.unique_all(x)
    sums = tr.zeros(found.values.shape[0], dtype=tr.int64)
    return sums.scatter_add(0, found.inverse_indices.reshape(-1), x)


@pytest.mark.parametrize(
    "program", [unique, unique_all, unique_counts, unique_consecutive, unique_rows, repeated, histogram, groups],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_integers(program):
    compare(program, integers())


# ------------------------------------------------------------------ with everything else


def test_one_trace_serves_all_sizes_above_one():
    compiled = compare(masked, vectors(50, range(0, 50, 3)), rounds=1)
    assert len(compiled.traces) == 2  # none, and many
    compiled = compare(same_mask_twice, vectors(), rounds=1)
    assert len(compiled.traces) == 3


def test_sizes_that_are_equal_are_found_to_be():
    compiled = compare(equal_masks, vectors(), rounds=2)
    assert len(compiled.traces) == 3
    many = max(compiled.traces, key=lambda t: len(t.graph.nodes))
    assert (
        len({str(s) for v in many.graph.values() for d in v.shape if not isinstance(d, int) for s in d.symbols()}) == 1
    )


@pytest.mark.parametrize("dynamic", [None, True])
def test_with_arguments_of_changing_sizes(dynamic):
    def program(x, y):
        a = x[x > 0]
        return a * 2, tr.concat([a, y]), len(a) - len(x), y[: len(a)], len(a) > len(y)

    compiled = tr.compile(program, fullgraph=True, dynamic=dynamic)
    for n in (5, 8, 13, 30, 8):
        for (x,) in vectors(n, (0, 1, 2, 3, 5)):
            y = tr.randn(n + 2)
            for got, want in zip(compiled(x, y), program(x, y)):
                np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    assert len(compiled.traces) <= 12


def test_gradients():
    def loss(x, w):
        y = x[w > 0] * 3
        out = tr.exp(y).sum() + (y**2).mean()
        out.backward()
        return out

    compiled = tr.compile(loss, fullgraph=True)
    for x, w in matrices(sizes=(1, 2, 5, 12)):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        np.testing.assert_allclose(compiled(a, w).numpy(), loss(b, w).numpy(), rtol=1e-6)
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_a_backward_pass_that_comes_later():
    def forward(x, w):
        y = tr.tanh(x[w > 0])
        return y, y.sum() * len(y)

    compiled = tr.compile(forward, fullgraph=True)
    for x, w in matrices(sizes=(2, 5, 12, 3)):
        grads = []
        for f in (compiled, forward):
            a = x.clone().requires_grad_()
            y, total = f(a, w)
            (total + (y * y).sum()).backward()
            grads.append(a.grad.numpy())
        np.testing.assert_allclose(*grads, rtol=1e-5, atol=1e-5)


def test_gradients_of_gradients():
    def forward(x):
        y = x[x > 0]
        return (y**3).sum() * len(y)

    compiled = tr.compile(forward, fullgraph=True)
    for (x,) in vectors(sizes=(2, 5, 7)):
        found = []
        for f in (compiled, forward):
            a = x.clone().requires_grad_()
            (g,) = tr.autograd.grad(f(a), a, create_graph=True)
            (h,) = tr.autograd.grad((g * g).sum(), a)
            found.append(h.numpy())
        np.testing.assert_allclose(*found, rtol=1e-4)


def test_random_numbers_of_a_counted_shape():
    def program(x):
        y = x[x > 0]
        return y + tr.rand(len(y))

    compiled = tr.compile(program, fullgraph=True)
    for (x,) in vectors():
        tr.manual_seed(3)
        got, after = compiled(x), tr.rand(2)
        tr.manual_seed(3)
        np.testing.assert_array_equal(got.numpy(), program(x).numpy())
        np.testing.assert_array_equal(after.numpy(), tr.rand(2).numpy())


def test_errors_are_those_of_plain_python():
    def program(x, y):
        return x[x > 0] + y

    compiled = tr.compile(program, fullgraph=True)
    y = tr.ones(7)
    for (x,) in vectors(sizes=(7, 1, 3, 7, 5)):
        try:
            want = program(x, y)
        except ValueError as e:
            with pytest.raises(ValueError) as raised:
                compiled(x, y)
            assert str(raised.value) == str(e)
        else:
            np.testing.assert_array_equal(compiled(x, y).numpy(), want.numpy())


def test_negative_counts_are_errors():
    for f, x in ((tr.bincount, tr.asarray([1, -1])), (lambda c: tr.repeat(c, c), tr.asarray([1, -1]))):
        for g in (f, tr.compile(f, fullgraph=True)):
            with pytest.raises(ValueError, match="negative"):
                g(x)


def test_views_of_results_share_memory():
    def program(x):
        y = x[x > 0]
        return y, y[1:]

    compiled = tr.compile(program, fullgraph=True)
    for (x,) in vectors(sizes=(3, 7)):
        y, tail = compiled(x)
        tail += 100
        np.testing.assert_array_equal(y[1:].numpy(), tail.numpy())


def test_kept_in_an_object():
    class Box:
        pass

    box = Box()

    def program(x):
        box.chosen = x[x > 0]
        box.n = len(box.chosen)

    compiled = tr.compile(program, fullgraph=True)
    for (x,) in vectors():
        compiled(x)
        assert box.n == len(box.chosen) == int((x > 0).sum())
        np.testing.assert_array_equal(box.chosen.numpy(), x.numpy()[x.numpy() > 0])


def test_many_different_sizes_do_not_make_many_traces():
    compiled = tr.compile(lambda x: x[x > 0] * 2, fullgraph=True)
    for (x,) in vectors(200, range(0, 200)):
        np.testing.assert_array_equal(compiled(x).numpy(), x.numpy()[x.numpy() > 0] * 2)
    assert len(compiled.traces) == 3


# ------------------------------------------------------------------ ints of tensors as sizes and positions


def counts(most=40):
    for n in (3, 0, 1, 7, 2, 12, 25, 11, 5, 19, 40, 6, 33, 9, 8, 17, 31, 29, 21, 22, 23, 24):
        yield tr.randn(most), tr.asarray(n)


def taken(x, n):
    return x[: int(n)] * 2


def dropped(x, n):
    return x[n:].sum(), x[-int(n) :] if n > 0 else x


def counted_range(x, n):
    return tr.arange(int(n)) * 2, tr.zeros(int(n) + 1)


def shaped(x, n):
    k = int(n.item())
    return tr.ones((k, 2)).sum(axis=0), x[:k].reshape(k, 1), k


def by_item(x, n):
    k = n.item()
    return x[:k], tr.full((k,), 2.0), k * 2


def window(x, n):
    start = int(n) // 2
    return x[start : start + 3].sum()


def element(x, n):
    return x[int(n) - 1] * 2


def written_range(x, n):
    x[: int(n)] = 0.0
    return x


def signed(x, n):
    k = 10 - int(n)
    return k, x[k:], f"{k:+d}"


def from_a_float(x, n):
    return x[: int(x.abs().max() * 5)].sum()


@pytest.mark.parametrize(
    "program",
    [taken, dropped, counted_range, shaped, by_item, window, element, written_range, signed, from_a_float],
    ids=lambda f: f.__name__,
)
def test_ints(program):
    compare(program, counts(), rounds=1)


def test_an_int_with_many_values_becomes_a_symbol():
    compiled = compare(taken, counts(), rounds=2)
    assert len(compiled.traces) <= 8
