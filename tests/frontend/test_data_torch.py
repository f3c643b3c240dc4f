"""Loaders, samplers and collating against PyTorch's."""

import inspect
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
from tracefuse.frontend import data

import tracefuse as tr

torch = pytest.importorskip("torch")
from torch.utils import data as theirs  # noqa: E402

Pair = namedtuple("Pair", "x y")


class Numbers:
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return i, np.float32(i) / 2, f"s{i}"


class Share:
    """The numbers 0 .. n-1, each worker its share."""

    def __init__(self, n, module):
        self.n, self.module = n, module

    def __iter__(self):
        info = self.module.get_worker_info()
        return iter(range(self.n) if info is None else range(info.id, self.n, info.num_workers))


class OurShare(Share, data.IterableDataset):
    def __init__(self, n):
        super().__init__(n, data)


class TheirShare(Share, theirs.IterableDataset):
    def __init__(self, n):
        super().__init__(n, theirs)


def plain(x):
    """Batches as nested Python values; tensors as (type name, values)."""
    if isinstance(x, (tr.Tensor, torch.Tensor)):
        return getattr(x.dtype, "name", str(x.dtype).removeprefix("torch.")), x.tolist()
    if isinstance(x, (dict, UserDict)):
        return type(x), {k: plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple, deque)):
        return type(x), [plain(v) for v in x]
    return x


def parameters(f):
    return list(inspect.signature(f).parameters.values())


@pytest.mark.parametrize("name", ["DataLoader", "RandomSampler", "SequentialSampler", "WeightedRandomSampler",
                                  "SubsetRandomSampler", "BatchSampler", "Subset", "ConcatDataset", "ChainDataset",
                                  "TensorDataset", "StackDataset"])  # fmt: skip
def test_constructors_take_the_same_arguments(name):
    ours, other = parameters(getattr(data, name).__init__), parameters(getattr(theirs, name).__init__)
    assert [(p.name, p.kind) for p in ours] == [(p.name, p.kind) for p in other]
    for a, b in zip(ours, other):
        assert a.default == b.default or b.default is b.empty


SAMPLES = {
    "numbers": [1, 2],
    "bools": [True, False],
    "numpy": [np.float64(1), np.float64(2)],
    "small": [np.int8(1), np.int8(2)],
    "arrays": [np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)],
    "scalars": [np.array(1), np.array(2)],
    "strings": ["a", "b"],
    "bytes": [b"a", b"b"],
    "tuples": [(1, "a"), (2, "b")],
    "lists": [[1, [2]], [3, [4]]],
    "named": [Pair(1, 2), Pair(3, 4)],
    "dicts": [{"a": 1, "b": (2, 3)}, {"a": 4, "b": (5, 6)}],
    "ordered": [OrderedDict(b=1, a=2), OrderedDict(b=3, a=4)],
    "default": [defaultdict(int, a=1), defaultdict(int, a=2)],
    "user": [UserDict(a=1), UserDict(a=2)],
    "deques": [deque([1, 2]), deque([3, 4])],
    "empty": [(), ()],
}


@pytest.mark.parametrize("name", SAMPLES)
def test_collating(name):
    assert plain(data.default_collate(SAMPLES[name])) == plain(theirs.default_collate(SAMPLES[name]))


@pytest.mark.parametrize("name", SAMPLES)
def test_converting(name):
    for x in SAMPLES[name]:
        assert plain(data.default_convert(x)) == plain(theirs.default_convert(x))


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_size": 3}, {"batch_size": 3, "drop_last": True}, {"batch_size": None}, {"sampler": [3, 1], "batch_size": 2},
     {"batch_sampler": [[1, 2], [4]]}, {"batch_size": 100}],
    ids=str,
)  # fmt: skip
def test_batches(options):
    ours, other = data.DataLoader(Numbers(8), **options), theirs.DataLoader(Numbers(8), **options)
    assert len(ours) == len(other) and plain(list(ours)) == plain(list(other))
    assert ours.batch_size == other.batch_size and ours.drop_last == other.drop_last


@pytest.mark.parametrize(
    "options", [{"batch_size": 2}, {"batch_size": 3, "drop_last": True}, {"batch_size": None}], ids=str
)
@pytest.mark.parametrize("workers", [0, 2])
def test_streams(options, workers):
    if workers:  # forked ones need not import torch
        options = {**options, "num_workers": workers, "multiprocessing_context": "fork"}
    ours, other = data.DataLoader(OurShare(11), **options), theirs.DataLoader(TheirShare(11), **options)
    assert plain(list(ours)) == plain(list(other))


@pytest.mark.parametrize(
    "make",
    [
        lambda m: m.DataLoader(Numbers(3), num_workers=-1),
        lambda m: m.DataLoader(Numbers(3), timeout=-1),
        lambda m: m.DataLoader(Numbers(3), prefetch_factor=2),
        lambda m: m.DataLoader(Numbers(3), persistent_workers=True),
        lambda m: m.DataLoader(Numbers(3), multiprocessing_context="spawn"),
        lambda m: m.DataLoader(Numbers(3), num_workers=1, multiprocessing_context="none"),
        lambda m: m.DataLoader(Numbers(3), batch_size=0),
        lambda m: m.DataLoader(Numbers(3), batch_size=None, drop_last=True),
        lambda m: m.DataLoader(Numbers(3), shuffle=True, sampler=[0]),
        lambda m: m.DataLoader(Numbers(3), batch_sampler=[[0]], drop_last=True),
        lambda m: m.DataLoader({data: OurShare, theirs: TheirShare}[m](3), shuffle=True),
        lambda m: m.RandomSampler(range(3), replacement=1),
        lambda m: m.RandomSampler(range(3), num_samples=0),
        lambda m: m.WeightedRandomSampler([1.0], 0),
        lambda m: m.WeightedRandomSampler([[1.0]], 1),
        lambda m: m.BatchSampler(range(3), 0, False),
        lambda m: m.BatchSampler(range(3), 2, 1),
        lambda m: m.StackDataset(Numbers(3), Numbers(4)),
        lambda m: m.StackDataset(),
        lambda m: m.StackDataset(Numbers(3), a=Numbers(3)),
        lambda m: m.random_split(Numbers(3), [1, 1]),
    ],
    ids=lambda f: inspect.getsource(f).strip(),
)
def test_mistakes_raise_the_same_errors(make):
    with pytest.raises(Exception) as expected:
        make(theirs)
    with pytest.raises(expected.type):
        make(data)


def test_lengths_of_samplers():
    for make in (
        lambda m: m.RandomSampler(range(5)),
        lambda m: m.RandomSampler(range(5), num_samples=12),
        lambda m: m.RandomSampler(range(5), True, 12),
        lambda m: m.WeightedRandomSampler([1, 2, 0], 7),
        lambda m: m.SubsetRandomSampler([4, 2]),
        lambda m: m.BatchSampler(range(7), 3, False),
        lambda m: m.BatchSampler(range(7), 3, True),
    ):
        ours, other = make(data), make(theirs)
        assert len(ours) == len(other) == len(list(ours)) == len(list(other))


def test_datasets():
    for make in (
        lambda m: m.ConcatDataset([Numbers(2), Numbers(3)]),
        lambda m: m.Subset(Numbers(5), [3, 1]),
        lambda m: m.StackDataset(Numbers(2), Numbers(2)),
        lambda m: m.StackDataset(a=Numbers(2), b=m.Subset(Numbers(5), [3, 1])),
    ):
        ours, other = make(data), make(theirs)
        assert len(ours) == len(other) and [ours[i] for i in range(len(ours))] == [other[i] for i in range(len(other))]
        assert plain(list(data.DataLoader(ours, 2))) == plain(list(theirs.DataLoader(other, 2)))
    fractions = [0.5, 0.3, 0.2]
    ours, other = data.random_split(Numbers(11), fractions), theirs.random_split(Numbers(11), fractions)
    assert [len(s) for s in ours] == [len(s) for s in other]
