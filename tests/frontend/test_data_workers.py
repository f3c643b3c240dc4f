"""Worker processes of loaders: what arrives, what goes wrong, and what is left afterwards."""

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import numpy as np
import pytest
from tracefuse.frontend import data
from tracefuse.frontend.data import transfer, worker
from tracefuse.frontend.data.fetch import Job

import tracefuse as tr

Pair = namedtuple("Pair", "x y")


class Inside(data.Dataset):
    """What a worker knows and sees."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        info = data.get_worker_info()
        return {
            "index": i,
            "id": info.id,
            "count": info.num_workers,
            "seed": info.seed,
            "init": getattr(info.dataset, "init", None),
            "pid": os.getpid(),
            "threads": threading.active_count(),
            "tasks": len(os.listdir("/proc/self/task")),
            "blas": os.environ.get("OPENBLAS_NUM_THREADS"),
            "modules": [m for m in ("llvmlite", "networkx", "scipy", "torch") if m in sys.modules],
        }


class Arrays(data.Dataset):
    """Samples of every kind, of about `size` numbers."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return 3

    def __getitem__(self, i):
        x = np.arange(2 * self.size).reshape(2, -1)
        return {"a": x.astype(np.float32).T + i, "b": (tr.full((self.size,), i, dtype="bfloat16"), f"s{i}"),
                "c": Pair(i, [1.5, None]), "empty": np.zeros((0, 3))}  # fmt: skip


class Bad(data.Dataset):
    """Sample 2 does what its name says."""

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 6

    def __getitem__(self, i):
        if i == 2 and self.how == "raise":
            raise KeyError("sample 2 is bad")
        if i == 2 and self.how == "stop":
            raise StopIteration
        if i == 2 and self.how == "strange":
            raise Strange(1, 2)
        if i == 2 and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 2 and self.how == "exit":
            os._exit(7)
        if i == 2 and self.how == "slow":
            time.sleep(60)
        if i == 2 and self.how == "unpicklable":
            return lambda: i
        return i


class Strange(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class Shard(data.IterableDataset):
    """0 .. n-1, each worker its share, with a random number."""

    def __init__(self, n, noise=False):
        self.n, self.noise = n, noise

    def __iter__(self):
        info = data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for i in range(first, self.n, step):
            yield i + (np.random.rand() / 2 if self.noise else 0)


def as_they_are(samples):
    return samples


def remember(number):
    data.get_worker_info().dataset.init = (number, np.random.rand())


def fail(number):
    raise OSError(f"no disk for worker {number}")


def values(loader):
    return [np.asarray(batch).tolist() for batch in loader]


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            same(a[k], b[k])
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    elif isinstance(a, tr.Tensor):
        assert a.dtype is b.dtype
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    else:
        assert a == b


def gone(pids):
    """Whether those processes end within half a minute."""
    for _ in range(600):
        if not any(os.path.exists(f"/proc/{pid}") and "State:\tZ" not in status(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def status(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return f.read()
    except OSError:
        return "State:\tZ"


def open_files():
    return [
        os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")
    ]


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_know_themselves_and_stay_small(method):
    loader = data.DataLoader(
        Inside(), 2, num_workers=2, collate_fn=as_they_are, worker_init_fn=remember, generator=3,
        multiprocessing_context=method,
    )  # fmt: skip
    found = sum(loader, [])
    assert [s["index"] for s in found] == list(range(6))
    assert {s["id"] for s in found} == {0, 1} and {s["count"] for s in found} == {2}
    base = min(s["seed"] for s in found)
    assert all(s["seed"] == base + s["id"] and s["init"][0] == s["id"] for s in found)
    assert len({s["init"][1] for s in found}) == 2  # workers are seeded apart
    assert {s["threads"] for s in found} == {2} and {s["blas"] for s in found} == {"1"}  # one works, one listens
    if method != "fork":
        assert {s["tasks"] for s in found} == {2} and not any(s["modules"] for s in found)
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    assert os.getpid() not in {s["pid"] for s in found} and gone({s["pid"] for s in found})
    assert data.get_worker_info() is None


@pytest.mark.parametrize("size", [4, 20_000], ids=["small", "shared"])
def test_batches_arrive_as_they_were_made(size, monkeypatch):
    here, there = data.DataLoader(Arrays(size), 2), data.DataLoader(Arrays(size), 2, num_workers=1)
    batches = list(there)
    same(list(here), batches)
    for b in batches:
        b["a"].numpy()[...] = 7  # batches can be written
        assert (b["b"][0].numpy() == b["b"][0].numpy()[:, :1]).all()  # and do not overlap
    assert bool(len(transfer._mapped)) == (size > 1000)
    assert [np.asarray(x).tolist() for x in transfer_one([np.arange(3), tr.ones(2)])] == [[0, 1, 2], [1, 1]]


def transfer_one(x):
    here, there = multiprocessing.Pipe()
    with here, there:
        transfer.send(there, x)
        return transfer.receive(here)


def test_no_memory_is_left_shared():
    before = set(os.listdir("/dev/shm"))
    loader = data.DataLoader(Arrays(20_000), num_workers=2, persistent_workers=True)
    kept = list(loader)
    for _ in loader:
        break
    del _
    assert len(transfer._mapped) > 0 and set(os.listdir("/dev/shm")) <= before
    del kept, loader
    gc.collect()
    assert len(transfer._mapped) == 0 and not [f for f in open_files() if "tracefuse" in f]


def test_many_batches_can_be_kept(monkeypatch):
    monkeypatch.setattr(transfer, "MOST_MAPPED", 2)
    here, there = multiprocessing.Pipe()
    with here, there:
        kept = []
        for i in range(5):
            transfer.send(there, np.full(10_000, i))
            kept.append(transfer.receive(here))
    assert [int(a[-1]) for a in kept] == list(range(5)) and len(transfer._mapped) == 2
    kept[4][0] = 1


def test_without_anonymous_files_everything_is_pickled(monkeypatch):
    monkeypatch.setattr(transfer, "SHARED", False)
    x = {"x": np.arange(10_000), "t": tr.ones(3, 10_000, dtype="bfloat16")}
    here, there = multiprocessing.Pipe()
    done = []
    with here, there:
        reader = threading.Thread(target=lambda: done.append(transfer.receive(here)))
        reader.start()
        transfer.send(there, x)
        reader.join()
    np.testing.assert_array_equal(done[0]["x"], x["x"])
    assert done[0]["t"].dtype is tr.bfloat16 and len(transfer._mapped) == 0


def test_the_dataset_of_many_workers_is_not_shared_for_writing():
    here, there = multiprocessing.Pipe()
    packed = transfer.pack(np.zeros(10_000), receivers=2)
    with here, there:
        transfer.post(there, packed)
        transfer.post(there, packed)
        packed.close()
        a, b = transfer.receive(here), transfer.receive(here)
    a[:] = 1
    assert not b.any()


def test_persistent_workers_stay_until_the_loader_goes():
    loader = data.DataLoader(Inside(), 2, num_workers=2, collate_fn=as_they_are, persistent_workers=True, generator=0)
    first, second = sum(loader, []), sum(loader, [])
    pids = {s["pid"] for s in first}
    assert pids == {s["pid"] for s in second}
    assert {s["seed"] for s in first}.isdisjoint(s["seed"] for s in second)  # each pass has seeds of its own
    for batch in loader:  # given up early: its other batches must not appear in the next pass
        break
    assert [s["index"] for s in sum(loader, [])] == list(range(6))
    a, b = iter(loader), iter(loader)  # two at a time: the second one gets workers of its own
    assert [s["index"] for s in next(a) + next(b)] == [0, 1, 0, 1]
    del a, b
    assert {s["pid"] for s in sum(loader, [])} & pids
    del loader
    assert gone(pids)


def test_breaking_off_ends_the_workers():
    for batch in data.DataLoader(Inside(), 1, num_workers=1, collate_fn=as_they_are):
        break
    assert gone([batch[0]["pid"]])
    assert not multiprocessing.active_children()


def test_streams_are_shared_out():
    assert sorted(sum(values(data.DataLoader(Shard(11), 2, num_workers=2)), [])) == list(range(11))
    loader = data.DataLoader(Shard(11), 2, num_workers=2)
    assert values(loader) == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9]]  # in turns, also at the end
    assert values(data.DataLoader(Shard(11), 2, num_workers=2, drop_last=True))[-1] == [8, 10]
    uneven = data.DataLoader(Shard(3), None, num_workers=2)
    assert list(uneven) == [0, 1, 2]
    noise = [values(data.DataLoader(Shard(6, noise=True), 2, num_workers=2, generator=5)) for _ in range(2)]
    assert noise[0] == noise[1] and len(set(sum(noise[0], []))) == 6


def test_batches_as_they_come():
    loader = data.DataLoader(Bad(None), 1, num_workers=2, in_order=False)
    assert sorted(values(loader)) == [[i] for i in range(6)]


@pytest.mark.parametrize(
    "how,kind,match",
    [("raise", KeyError, "sample 2 is bad"), ("stop", RuntimeError, "StopIteration"), ("strange", RuntimeError, "1 and 2"),
     ("unpicklable", AttributeError, "pickle")],
)  # fmt: skip
def test_errors_in_workers_come_with_their_traceback(how, kind, match):
    batches = iter(data.DataLoader(Bad(how), None, num_workers=1))
    assert next(batches) == 0 and next(batches) == 1
    with pytest.raises(kind, match=match) as e:
        next(batches)
    note = e.value.__notes__[0]
    assert "DataLoader worker 0" in note and "Traceback (most recent call last)" in note
    assert how == "unpicklable" or "test_data_workers.py" in note
    assert list(batches) == [3, 4, 5]  # the others can still be had


@pytest.mark.parametrize(
    "how,match", [("killed", r"worker 0 .* was killed by SIGKILL \(exit code -9\)"), ("exit", "ended with exit code 7")]
)
def test_dead_workers_are_named(how, match):
    batches = iter(data.DataLoader(Bad(how), None, num_workers=1, prefetch_factor=1))
    assert next(batches) == 0 and next(batches) == 1
    with pytest.raises(RuntimeError, match=match):
        next(batches)
    with pytest.raises(RuntimeError, match="have ended"):
        next(batches)
    assert not multiprocessing.active_children()


def test_errors_of_a_pass_that_was_given_up_stay_with_it():
    here, there = multiprocessing.Pipe()

    def collate(samples):
        at_work.newest = 2  # the next pass begins in the middle of this batch
        raise KeyError("late")

    at_work = worker._Worker(there, 0, 1, Job(Bad(None), collate, 1, False), newest=1)
    with here, there:
        at_work._answer(worker.Make(1, 5, [0]))
        answer = transfer.receive(here)
    assert (answer.of_pass, answer.number) == (1, 5)


def test_sample_numbers_that_cannot_be_sent():
    batches = iter(data.DataLoader(Bad(None), None, sampler=[0, 1, 2, lambda: 3, 4], num_workers=1))
    assert next(batches) == 0
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        next(batches)
    assert list(batches) == [1, 2, 4]


def test_slow_workers_are_not_waited_for():
    batches = iter(data.DataLoader(Bad("slow"), None, num_workers=1, timeout=120))
    assert next(batches) == 0 and next(batches) == 1
    batches.loader.timeout = 0.2
    with pytest.raises(RuntimeError, match="no batch from its workers in 0.2 seconds"):
        next(batches)
    assert not multiprocessing.active_children()


def test_workers_that_cannot_start_say_why():
    with pytest.raises(OSError, match="no disk for worker") as e:
        list(data.DataLoader(Bad(None), num_workers=1, worker_init_fn=fail))
    assert "in fail" in e.value.__notes__[0]
    with pytest.raises(TypeError, match="must be picklable.*num_workers=0"):
        iter(data.DataLoader(Bad(None), num_workers=1, collate_fn=lambda x: x))
    with pytest.raises(ValueError, match="no start method; there are"):
        data.DataLoader(Bad(None), num_workers=1, multiprocessing_context="thread")


class Locked(Bad):
    """Holds what can only be inherited by processes."""

    def __init__(self):
        super().__init__(None)
        self.lock = multiprocessing.get_context("spawn").Lock()


def test_locks_reach_the_workers():
    assert values(data.DataLoader(Locked(), 3, num_workers=1)) == [[0, 1, 2], [3, 4, 5]]


# ------------------------------------------------------------------ whole scripts

HEAD = """
import os, sys, time
import numpy as np
from tracefuse import data

class Slow(data.Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, i):
        time.sleep(0.05)
        return np.full(20_000, i), os.getpid()
"""


def script(tmp_path, body):
    path = tmp_path / "script.py"
    path.write_text(HEAD + body)
    return [sys.executable, str(path)]


GUARDED = """
if __name__ == "__main__":
    for x, pids in data.DataLoader(Slow(), 2, num_workers=2, multiprocessing_context=sys.argv[1]):
        print(*set(pids.tolist()), flush=True)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_script_without_guard_is_told_so(tmp_path, method):
    body = f"list(data.DataLoader(Slow(), 2, num_workers=1, multiprocessing_context='{method}'))"
    done = subprocess.run(script(tmp_path, body), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1].startswith("RuntimeError: DataLoader worker 0")
    assert "ended with exit code 1" in done.stderr and 'if __name__ == "__main__":' in done.stderr


def test_classes_that_workers_cannot_import_are_named(tmp_path):
    body = HEAD + "list(data.DataLoader(Slow(), 2, num_workers=1))"
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True)
    assert done.returncode == 1 and "Can't get attribute 'Slow'" in done.stderr


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_go_with_their_parent(tmp_path, how, method):
    with subprocess.Popen(
        [*script(tmp_path, GUARDED), method],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        pids = {int(p) for _ in range(4) for p in child.stdout.readline().split()}
        if how is signal.SIGINT:
            os.killpg(child.pid, how)  # as a terminal does: to the workers too
        else:
            child.kill()
        child.wait()
        errors = child.stderr.read()
    assert len(pids) == 2 and gone(pids)
    assert child.returncode == -how
    assert errors.count("Traceback") == (how is signal.SIGINT)  # the loop's own; none of the workers


OPEN = """
if __name__ == "__main__":
    kept = data.DataLoader(Slow(), 2, num_workers=1, persistent_workers=True)
    other = data.DataLoader(Slow(), 2, num_workers=1)
    batches, more = iter(kept), iter(other)
    print(next(batches)[1][0].item(), next(more)[1][0].item())
"""


def test_a_script_may_end_with_loaders_open(tmp_path):
    command = script(tmp_path, OPEN)
    done = subprocess.run([command[0], "-W", "error", command[1]], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and gone({int(p) for p in done.stdout.split()})
