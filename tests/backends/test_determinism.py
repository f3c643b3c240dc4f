"""Results are the same, bit for bit, with any number of threads, in every run, and from racing callers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tracefuse.frontend.nn import functional as F
from tracefuse.runtime.executable import Executable
from tracefuse.runtime.threads import get_num_threads, set_num_threads

import tracefuse as tr
from tracefuse import nn, optim

THREADS = (1, 2, 3, 8)
RUNS = 20


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = get_num_threads()
    yield
    set_num_threads(before)


def normal(*shape: int, seed: int = 0) -> tr.Tensor:
    return tr.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def bits(tree) -> list[bytes]:
    """The bytes of every tensor in nested tuples and lists."""
    if isinstance(tree, (tuple, list)):
        return [b for x in tree for b in bits(x)]
    return [np.ascontiguousarray(tree.numpy()).tobytes()]


def block(x, r, w, b):
    """layer_norm(x + r) through a gelu, and its gradients."""
    return F.gelu(F.layer_norm(x + r, (768,), w, b)).square().mean()


def conv(x, w, b):
    return F.relu(F.conv2d(x, w, b, stride=1, padding=1)).square().mean()


def lookup(table, ids):
    return (table[ids] * 1.5).square().sum()


IDS = tr.tensor(np.random.default_rng(1).integers(0, 40, (64, 50)))  # 40 rows get 3200 gradients
CASES: dict[str, tuple[Callable, tuple]] = {
    "gelu chain": (lambda x: F.gelu(x * 1.5 + 0.5) * tr.tanh(x), (normal(512, 700),)),
    "softmax": (lambda x: F.softmax(x, -1), (normal(300, 1000),)),
    "softmax over columns": (lambda x: F.softmax(x, 0), (normal(1000, 300),)),
    "norm": (tr.value_and_grad(block, (0, 1, 2, 3)), (normal(96, 768), normal(96, 768, seed=1), normal(768), normal(768))),
    "sums": (lambda x: (x.sum(), x.sum(0), x.sum(1), x.mean(0), x.var(1), x.max(0)), (normal(300, 5000),)),
    "sums of 3 axes": (lambda x: (x.sum((0, 2)), x.sum(1), x.sum((0, 1))), (normal(40, 60, 500),)),
    "half sums": (lambda x: (x.sum(), x.sum(0), x.sum(1)), (normal(300, 3000).astype(tr.bfloat16),)),
    "argmax": (lambda x: (x.argmax(0), x.argmax(1)), (normal(700, 900).round(),)),
    "matmul": (lambda x, y: x @ y, (normal(257, 129), normal(129, 511))),
    "large matmul": (lambda x, y: x @ y, (normal(1024, 1000), normal(1000, 1030))),
    "deep matmul": (lambda x, y: x @ y, (normal(12, 20000), normal(20000, 20))),
    "vector matmul": (lambda x, y: x @ y, (normal(1, 3000), normal(3000, 2000))),
    "batched matmul": (lambda x, y: x @ y, (normal(12, 65, 70), normal(12, 70, 33))),
    "conv": (tr.value_and_grad(conv, (0, 1, 2)), (normal(4, 8, 33, 35), normal(16, 8, 3, 3), normal(16))),
    "embedding": (tr.value_and_grad(lookup), (normal(40, 64), IDS)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_threads_and_every_run(name):
    f, args = CASES[name]
    compiled = tr.compile(f, fullgraph=True)
    set_num_threads(1)
    want = bits(compiled(*args))
    for threads in THREADS:
        set_num_threads(threads)
        for _ in range(RUNS // len(THREADS) + 1):
            assert bits(compiled(*args)) == want, f"{threads} threads"
    assert compiled.cache_info()["eager"] == 0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.body = nn.Sequential(nn.Linear(32, 96), nn.GELU(), nn.LayerNorm(96), nn.Dropout(0.1))
        self.head = nn.Linear(96, 10)

    def forward(self, ids):
        return self.head(self.body(self.table(ids)).mean(1))


def trained(threads: int) -> list[bytes]:
    """All parameters and the losses after a few steps."""
    set_num_threads(threads)
    tr.manual_seed(0)
    net = Net()
    optimizer = optim.AdamW(net.parameters(), lr=1e-2)

    @tr.compile(fullgraph=True)
    def step(ids, y):
        loss = F.cross_entropy(net(ids), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    rng, losses = np.random.default_rng(0), []
    for _ in range(5):
        losses.append(step(tr.tensor(rng.integers(0, 50, (64, 20))), tr.tensor(rng.integers(0, 10, 64))).detach())
    assert step.cache_info()["eager"] == 0
    return bits([*losses, *(p.detach() for p in net.parameters())])


def test_training_is_the_same_with_any_number_of_threads():
    want = trained(1)
    for threads in THREADS:
        assert trained(threads) == want, f"{threads} threads"


def racing(work: Callable[[int], None], callers: int = 6) -> None:
    """work(k) in several Python threads that start together; raises what any of them raised."""
    barrier, errors = threading.Barrier(callers), []

    def run(k: int) -> None:
        try:
            barrier.wait(30)
            work(k)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(callers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert not any(t.is_alive() for t in threads)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("name", ["norm", "matmul", "embedding", "sums", "conv"])
def test_racing_callers_of_one_executable(name):
    """Every caller gets its own results: from the compiled function, and from the Executable below it."""
    f, args = CASES[name]
    compiled = tr.compile(f, fullgraph=True)
    set_num_threads(3)
    others = [tuple(a * (k + 1) if a.dtype is tr.float32 else a for a in args) for k in range(6)]
    wants = [bits(compiled(*o)) for o in others]

    def call(k: int) -> None:
        for _ in range(8):
            assert bits(compiled(*others[k])) == wants[k]

    racing(call)
    (trace,) = compiled.traces
    executable = getattr(trace.executable, "executable", trace.executable)
    assert isinstance(executable, Executable)
    inputs = [[np.ascontiguousarray(s.fetch(list(o))) for s in trace.sources] for o in others]
    alone = [[r.tobytes() for r in executable.run(i) if r is not None] for i in inputs]

    def run(k: int) -> None:
        for _ in range(8):
            assert [r.tobytes() for r in executable.run(inputs[k]) if r is not None] == alone[k]

    racing(run)


def test_racing_first_calls():
    """Threads that all need a trace that nobody has made yet."""
    compiled = tr.compile(lambda x: F.softmax(x * 2.5, -1).sum(0), fullgraph=True)
    x = normal(64, 333)
    found: dict[int, list[bytes]] = {}

    def call(k: int) -> None:
        found[k] = bits(compiled(x))

    racing(call)
    assert all(b == found[0] for b in found.values())
    assert compiled.cache_info()["eager"] == 0


def test_changing_the_number_of_threads_while_others_run():
    f, args = CASES["matmul"]
    compiled = tr.compile(f, fullgraph=True)
    want = bits(compiled(*args))

    def work(k: int) -> None:
        for i in range(10):
            if k == 0:
                set_num_threads(1 + i % 5)
            assert bits(compiled(*args)) == want

    racing(work, 4)
