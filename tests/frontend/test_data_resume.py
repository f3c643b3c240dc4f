"""Loaders that go on in the middle of a pass, and progress bars."""

import random
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracefuse.frontend import data
from tracefuse.frontend.serialize import load_tensors, save

import tracefuse as tr


class Noisy(data.Dataset):
    """Sample i is i and three random numbers."""

    def __len__(self):
        return 23

    def __getitem__(self, i):
        return np.array([i, np.random.rand(), random.random(), tr.rand(()).item()], np.float64)


class Numbers(data.Dataset):
    def __init__(self, n):
        self.n, self.asked = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.asked.append(i)
        return i


class Stream(data.IterableDataset):
    """Each worker's share of 0 .. 22, shuffled in its own way."""

    def __iter__(self):
        info = data.get_worker_info()
        mine = np.arange(23) if info is None else np.arange(info.id, 23, info.num_workers)
        yield from np.random.permutation(mine).tolist()


class Shuffled(data.Sampler):
    """A sampler that draws from NumPy's global generator."""

    def __iter__(self):
        return iter(np.random.permutation(23).tolist())

    def __len__(self):
        return 23


def values(batches):
    return [np.asarray(b).tolist() for b in batches]


def interrupted(make, taken, passes=2, through=lambda state: state):
    """(batches after the first `taken` of an uninterrupted run, those of a run resumed there by a new loader)."""
    tr.seed_everything(1)
    loader, kept, after = make(), None, []
    count = 0
    for _ in range(passes):
        for batch in loader:
            if kept is not None:
                after.append(batch)
            count += 1
            if count == taken:
                kept = through({"loader": loader.state_dict(), "rng": tr.frontend.random_state.global_state()})
    tr.seed_everything(2)
    loader = make()
    loader.load_state_dict(kept["loader"])
    tr.frontend.random_state.set_global_state(kept["rng"])
    first = taken // len(loader) if taken % len(loader) else taken // len(loader) - 1
    return values(after), values(b for _ in range(first, passes) for b in loader)


ORDERS = {
    "in order": lambda: data.DataLoader(Numbers(23), 4),
    "shuffled": lambda: data.DataLoader(Numbers(23), 4, shuffle=True),
    "shuffled by a seed": lambda: data.DataLoader(Numbers(23), 4, shuffle=True, generator=5),
    "shuffled by a generator": lambda: data.DataLoader(Numbers(23), 4, shuffle=True, generator=tr.Generator(3)),
    "a sampler with a generator": lambda: data.DataLoader(
        Numbers(23), 4, sampler=data.RandomSampler(range(23), True, 30, generator=np.random.default_rng(1))
    ),
    "a sampler of the user": lambda: data.DataLoader(Numbers(23), 4, sampler=Shuffled()),
    "batches of the user": lambda: data.DataLoader(Numbers(23), batch_sampler=[[3, 4], [1], [2, 0]] * 2),
    "single samples": lambda: data.DataLoader(Numbers(6), None, shuffle=True),
    "random samples": lambda: data.DataLoader(Noisy(), 4, shuffle=True),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("taken", [1, 5, 6, 9])
def test_a_resumed_pass_goes_on_with_the_same_batches(name, taken):
    expected, found = interrupted(ORDERS[name], taken)
    assert found == expected and expected


def test_the_position_can_be_saved(tmp_path):
    def through(state):
        save(state, tmp_path / "state")
        return load_tensors(tmp_path / "state")

    for name in ORDERS:
        expected, found = interrupted(ORDERS[name], 5, through=through)
        assert found == expected, name


@pytest.mark.parametrize("dataset", [Noisy, Stream])
def test_workers_resume_too(dataset):
    def make(workers):
        shuffle = None if dataset is Stream else True
        return lambda: data.DataLoader(dataset(), 4, shuffle=shuffle, num_workers=workers, generator=7)

    assert len(make(2)()) == 6 if dataset is Noisy else True
    tr.seed_everything(0)
    loader = make(2)()
    batches, states = [], []
    for batch in loader:
        batches.append(batch)
        states.append(loader.state_dict())
    for i in (0, 3):
        resumed = make(2)()
        resumed.load_state_dict(states[i])
        assert values(resumed) == values(batches[i + 1 :])
    if dataset is Noisy:  # random samples do not depend on who makes them
        resumed = make(1)()
        resumed.load_state_dict(states[3])
        assert values(resumed) == values(batches[4:])


def test_batches_delivered_out_of_order_are_not_delivered_again():
    loader = data.DataLoader(Numbers(9), 1, num_workers=2, in_order=False)
    state = loader.state_dict()
    state["pass"] = {"position": {"done": 2, "ahead": [3, 5], "counts": [], "turn": 0}, "start": started()}
    loader.load_state_dict(state)
    assert sorted(values(loader)) == [[2], [4], [6], [7], [8]]


def started():
    return tr.frontend.random_state.states([])


def test_what_was_delivered_is_not_read_again():
    loader = data.DataLoader(Numbers(10), 2)
    batches = iter(loader)
    next(batches), next(batches)
    fresh = data.DataLoader(Numbers(10), 2)
    fresh.load_state_dict(loader.state_dict())
    assert fresh.state_dict()["pass"] == loader.state_dict()["pass"]  # until it goes on
    assert values(fresh) == [[4, 5], [6, 7], [8, 9]] and fresh.dataset.asked == [4, 5, 6, 7, 8, 9]
    assert len(values(fresh)) == 5  # and the pass after that is whole


def test_a_state_can_be_loaded_again():
    loader = data.DataLoader(Stream(), 2, generator=1)
    for i, _ in enumerate(loader):
        if i == 3:
            state = loader.state_dict()
    found = []
    for _ in range(2):
        loader.load_state_dict(state)
        found.append(values(loader))
    assert found[0] == found[1] and len(found[0]) == 8


def test_a_pass_that_was_given_up_is_not_resumed():
    loader = data.DataLoader(Numbers(10), 2)
    for i, _ in enumerate(loader):
        if i == 2:
            assert loader.state_dict()["pass"]["position"]["done"] == 3
            break
    assert loader.state_dict()["pass"] is None
    assert len(list(loader)) == 5 and loader.state_dict()["pass"] is None


def test_states_of_other_loaders_are_refused():
    state = data.DataLoader(Numbers(10), 2, generator=1).state_dict()
    with pytest.raises(ValueError, match="batch_size=2, this loader has 3"):
        data.DataLoader(Numbers(10), 3, generator=1).load_state_dict(state)
    with pytest.raises(ValueError, match="1 generators, this loader 0"):
        data.DataLoader(Numbers(10), 2).load_state_dict(state)
    with pytest.raises(ValueError, match="does not fit a Generator"):
        data.DataLoader(Numbers(10), 2, generator=np.random.default_rng(1)).load_state_dict(state)
    with pytest.raises(ValueError, match="num_workers=None, this loader has 0"):
        data.DataLoader(Stream(), 2, generator=1).load_state_dict(state)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 7), st.booleans(), st.integers(0, 2**64), st.integers(0, 40))
def test_any_position_of_any_loader(n, batch_size, drop_last, seed, taken):
    def make():
        return data.DataLoader(Numbers(n), batch_size, shuffle=True, drop_last=drop_last, generator=seed)

    loader = make()
    if not len(loader):
        return
    taken = 1 + taken % (2 * len(loader))
    expected, found = interrupted(make, taken)
    assert found == expected


# ------------------------------------------------------------------ progress


class Bar:
    made: list = []

    def __init__(self, batches, **options):
        self.batches, self.options, self.closed, self.shown = batches, options, False, 0
        Bar.made.append(self)

    def __iter__(self):
        for b in self.batches:
            self.shown += 1
            yield b

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    module = types.ModuleType("tqdm.auto")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    Bar.made = []
    return Bar.made


def test_progress_is_shown_with_tqdm(bars):
    loader = data.DataLoader(Numbers(10), 2)
    shown = data.progress(loader, desc="training")
    assert len(shown) == 5 and values(shown) == values(loader) and values(shown) == values(loader)
    assert len(bars) == 2 and bars[0].closed and bars[0].shown == 5
    assert bars[0].options == {"total": 5, "initial": 0, "desc": "training"}
    for _ in shown:
        assert loader.state_dict()["pass"]["position"]["done"] == 1
        state = loader.state_dict()
        break
    assert bars[2].closed and loader.state_dict()["pass"] is None
    loader.load_state_dict(state)
    assert len(list(shown)) == 4 and bars[3].options["initial"] == 1
    assert list(data.progress(data.DataLoader(Stream(), None))) and bars[4].options["total"] is None


def test_progress_without_tqdm_is_the_loader(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    loader = data.DataLoader(Numbers(10), 2)
    assert data.progress(loader) is loader
