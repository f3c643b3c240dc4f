"""Datasets, samplers and loaders."""

from collections import namedtuple

import numpy as np
import pytest
from tracefuse.frontend import data

import tracefuse as tr

Pair = namedtuple("Pair", "x y")


class Squares(data.Dataset):
    """Sample i is (i, i^2), with noise from NumPy's global generator if wanted."""

    def __init__(self, n, noise=False, bad=None):
        self.n, self.noise, self.bad = n, noise, bad

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i == self.bad:
            raise KeyError(f"sample {i} is bad")
        return np.float32(i), np.float32(i * i + (np.random.rand() if self.noise else 0))


class Stream(data.IterableDataset):
    def __iter__(self):
        return iter(range(7))


def numbers(loader):
    return [np.asarray(batch[0]).tolist() for batch in loader]


def test_batches_in_order():
    x, y = np.arange(10, dtype=np.float32), np.arange(20).reshape(10, 2)
    dataset = data.TensorDataset(x, tr.tensor(y))
    loader = data.DataLoader(dataset, batch_size=4)
    batches = list(loader)
    assert len(loader) == len(batches) == 3 and isinstance(batches[0], list)
    np.testing.assert_array_equal(np.asarray(batches[1][1]), y[4:8])
    assert [b[0].shape[0] for b in batches] == [4, 4, 2]
    assert (
        len(data.DataLoader(dataset, 4, drop_last=True)) == len(list(data.DataLoader(dataset, 4, drop_last=True))) == 2
    )
    assert dataset[3][0].shape == () and len(dataset) == 10
    with pytest.raises(ValueError, match="different sizes"):
        data.TensorDataset(x, y[:3])


def test_shuffling_depends_on_the_seed_only():
    dataset = Squares(20)
    first = data.DataLoader(dataset, 5, shuffle=True, generator=7)
    passes = [numbers(first), numbers(first)]
    second = data.DataLoader(dataset, 5, shuffle=True, generator=7)
    assert [numbers(second), numbers(second)] == passes and passes[0] != passes[1]
    assert sorted(sum(passes[0], [])) == list(range(20))
    assert numbers(data.DataLoader(dataset, 5, shuffle=True, generator=8)) != passes[0]
    tr.manual_seed(1)
    a = numbers(data.DataLoader(dataset, 5, shuffle=True))
    b = numbers(data.DataLoader(dataset, 5, shuffle=True))
    tr.manual_seed(1)
    assert numbers(data.DataLoader(dataset, 5, shuffle=True)) == a != b


def test_samplers():
    assert list(data.BatchSampler(range(5), 2, drop_last=True)) == [[0, 1], [2, 3]]
    assert len(list(data.RandomSampler(range(4), num_samples=10, generator=0))) == 10
    assert len(set(data.RandomSampler(range(50), replacement=True, generator=0))) < 50
    assert sorted(data.SubsetRandomSampler([4, 7, 9], generator=1)) == [4, 7, 9]
    drawn = list(data.WeightedRandomSampler([0, 1, 3], 4000, generator=1))
    assert set(drawn) == {1, 2} and 0.7 < drawn.count(2) / 4000 < 0.8
    loader = data.DataLoader(Squares(5), sampler=[4, 0, 2], batch_size=2)
    assert numbers(loader) == [[4, 0], [2]]
    assert numbers(data.DataLoader(Squares(5), batch_sampler=[[1], [3, 4]])) == [[1], [3, 4]]


def test_collating():
    batch = data.default_collate([{"a": 1, "b": (np.ones(2), "s")}, {"a": 2, "b": (np.zeros(2), "t")}])
    assert np.asarray(batch["a"]).tolist() == [1, 2] and batch["b"][0].shape == (2, 2) and batch["b"][1] == ("s", "t")
    pair = data.default_collate([Pair(1.0, tr.ones(2)), Pair(2.0, tr.ones(2))])
    assert isinstance(pair, Pair) and pair.x.dtype is tr.float32 and pair.y.shape == (2, 2)
    with pytest.raises(ValueError, match="different shapes"):
        data.default_collate([tr.ones(1), tr.ones(2)])
    with pytest.raises(TypeError, match="collate_fn"):
        data.default_collate([object(), object()])


def test_collating_keeps_types_and_gradients():
    from collections import OrderedDict

    batch = data.default_collate([OrderedDict(b=1, a=None), OrderedDict(b=2, a=None)])
    assert type(batch) is OrderedDict and list(batch) == ["b", "a"] and batch["a"] == [None, None]
    x = tr.ones(2, requires_grad=True)
    data.default_collate([x * 2, x]).sum().backward()
    assert x.grad.tolist() == [3, 3]
    assert data.default_collate([np.float32(1), np.float64(2)]).dtype is tr.float64
    assert data.default_collate([1 + 2j, 3j]).dtype.name == "complex64"
    with pytest.raises(ValueError, match="different keys"):
        data.default_collate([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="different lengths"):
        data.default_collate([[1], [1, 2]])
    with pytest.raises(TypeError, match="arrays of <U1"):
        data.default_collate([np.array(["a"])] * 2)
    converted = data.default_convert({"x": np.ones(2), "y": [np.int8(3), "s"], "z": Pair(np.ones(1), None)})
    assert converted["x"].dtype is tr.float64 and converted["y"][0].dtype is tr.int8 and converted["y"][1] == "s"
    assert isinstance(converted["z"], Pair) and converted["z"].x.shape == (1,)


def test_single_samples_and_streams():
    assert len(list(data.DataLoader(Squares(3), batch_size=None))) == 3
    assert [np.asarray(b).tolist() for b in data.DataLoader(Stream(), batch_size=3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(list(data.DataLoader(Stream(), batch_size=3, drop_last=True))) == 2
    assert list(data.DataLoader(Stream(), batch_size=None)) == list(range(7))


def test_datasets_side_by_side_and_streams_in_a_row():
    numbers_, squares = data.Subset(data.TensorDataset(np.arange(4)), [2, 0]), Squares(2)
    both = data.StackDataset(a=numbers_, b=squares)
    assert len(both) == 2 and both[0]["a"][0].item() == 2 and both[1]["b"][1] == 1
    (batch,) = data.DataLoader(both, 2)
    assert batch["a"][0].tolist() == [2, 0] and batch["b"][1].tolist() == [0, 1]
    (batch,) = data.DataLoader(data.StackDataset(squares, squares), 2)
    assert batch[0][1].tolist() == batch[1][1].tolist() == [0, 1]
    assert list(Stream() + Stream()) == list(range(7)) * 2
    with pytest.raises(ValueError, match="different lengths"):
        data.StackDataset(Squares(2), Squares(3))
    with pytest.raises(TypeError, match="ConcatDataset"):
        data.ChainDataset([Squares(2)])
    with pytest.raises(ValueError, match="ChainDataset"):
        data.ConcatDataset([Stream()])
    with pytest.raises(TypeError, match="Stream is a stream"):
        Stream()[0]


class Batched(Squares):
    """Fetches whole batches."""

    def __getitems__(self, indices):
        return [(np.float32(-i),) for i in indices]


def test_datasets_may_fetch_whole_batches():
    assert numbers(data.DataLoader(Batched(4), 2)) == [[0, -1], [-2, -3]]
    assert numbers(data.DataLoader(data.Subset(Batched(4), [3, 1]), 2)) == [[-3, -1]]


def test_samplers_refuse_nonsense():
    with pytest.raises(TypeError, match="replacement"):
        data.RandomSampler(range(3), 5)
    with pytest.raises(ValueError, match="positive integer, got 0"):
        data.RandomSampler(range(3), num_samples=0)
    with pytest.raises(ValueError, match="a dataset that has none"):
        list(data.RandomSampler([], num_samples=2))
    with pytest.raises(ValueError, match="non-negative"):
        data.WeightedRandomSampler([1, -1], 2)
    with pytest.raises(ValueError, match="2 samples without replacement, but 1 positive"):
        data.WeightedRandomSampler([1, 0], 2, replacement=False)
    with pytest.raises(ValueError, match="drop_last must be True or False"):
        data.BatchSampler(range(3), 2, "no")


def test_the_end_of_a_stream_inside_a_dataset_is_an_error():
    class Ends(Squares):
        def __getitem__(self, i):
            return next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(data.DataLoader(Ends(3)))


def test_splits_and_concatenations():
    parts = data.random_split(Squares(10), [0.7, 0.3], generator=3)
    assert [len(p) for p in parts] == [7, 3]
    assert sorted(float(p[i][0]) for p in parts for i in range(len(p))) == list(range(10))
    both = Squares(3) + Squares(4)
    assert len(both) == 7 and both[3][0] == 0 and both[-1][0] == 3
    with pytest.raises(IndexError):
        both[7]


@pytest.mark.parametrize(
    "kwargs,match",
    [
        ({"num_workers": -1}, "num_workers"),
        ({"shuffle": True, "sampler": [0]}, "sampler or shuffle"),
        ({"batch_sampler": [[0]], "batch_size": 2}, "batch_sampler excludes"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": None, "drop_last": True}, "drop_last"),
        ({"prefetch_factor": 2}, "prefetch_factor"),
        ({"timeout": -1}, "timeout"),
        ({"persistent_workers": True}, "persistent_workers"),
        ({"multiprocessing_context": "spawn"}, "multiprocessing_context"),
    ],
)
def test_contradictions_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        data.DataLoader(Squares(3), **kwargs)
    with pytest.raises(ValueError, match="IterableDataset"):
        data.DataLoader(Stream(), shuffle=True)


def test_workers_give_the_same_batches_in_order():
    here = numbers(data.DataLoader(Squares(13), 3, shuffle=True, generator=2))
    there = numbers(data.DataLoader(Squares(13), 3, shuffle=True, generator=2, num_workers=2))
    assert here == there


def test_noise_does_not_depend_on_the_number_of_workers():
    def noise(workers):
        loader = data.DataLoader(Squares(6, noise=True), 2, generator=2, num_workers=workers)
        return [np.asarray(b[1]).tolist() for b in loader]

    assert noise(1) == noise(2)


def test_errors_in_workers_reach_the_caller():
    loader = data.DataLoader(Squares(6, bad=3), 2, num_workers=1, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    with pytest.raises(KeyError, match="sample 3 is bad"):
        next(batches)
