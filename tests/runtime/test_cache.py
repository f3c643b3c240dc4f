"""The disk cache: what is put is got, and whatever is broken is a miss."""

import multiprocessing
import os
import warnings

import pytest
from tracefuse.runtime import cache as module
from tracefuse.runtime.cache import DiskCache, Recent


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "objects", "avx512 linux")


def entry(cache, key):
    path = cache.path(key)
    assert path is not None
    return path


def test_round_trip(cache):
    assert cache.get("key") is None
    cache.put("key", b"object")
    assert cache.get("key") == b"object"
    assert (cache.hits, cache.misses) == (1, 1)
    assert cache.size()[0] == 1


@pytest.mark.parametrize("data", [b"", b"\0" * 1000, os.urandom(1 << 16)], ids=["empty", "zeros", "random"])
def test_any_bytes(cache, data):
    cache.put("k", data)
    assert cache.get("k") == data


def test_another_target_is_a_miss(cache):
    cache.put("key", b"object")
    assert DiskCache(cache.folder, "avx2 linux").get("key") is None


def test_an_entry_under_the_wrong_name_is_a_miss(cache):
    cache.put("a", b"object")
    entry(cache, "b").parent.mkdir(exist_ok=True)
    entry(cache, "a").rename(entry(cache, "b"))
    assert cache.get("b") is None


def test_only_the_owner_may_read(cache):
    cache.put("key", b"object")
    path = entry(cache, "key")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header"])
def test_damage_is_a_miss_and_is_removed(cache, damage):
    cache.put("key", b"object" * 100)
    path = entry(cache, "key")
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[-10] ^= 1
    elif damage == "header":
        raw[10] ^= 0xFF
    path.write_bytes(raw[: {"cut": len(raw) // 2, "empty": 0}.get(damage, len(raw))])
    assert cache.get("key") is None
    assert not path.exists()
    cache.put("key", b"new")
    assert cache.get("key") == b"new"


def test_every_cut_is_a_miss(cache):
    cache.put("key", b"object")
    raw = entry(cache, "key").read_bytes()
    for length in range(len(raw)):
        entry(cache, "key").write_bytes(raw[:length])
        assert cache.get("key") is None


def test_what_others_can_write_is_not_run(cache):
    cache.put("key", b"object")
    entry(cache, "key").chmod(0o666)
    assert cache.get("key") is None


def test_a_folder_that_cannot_be_written_warns_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file" / "objects")
    with pytest.warns(RuntimeWarning, match="cannot write"):
        cache.put("key", b"object")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put("key", b"object")
        assert cache.get("key") is None
        assert cache.size() == (0, 0)
        assert cache.prune() == 0


def test_no_folder_keeps_nothing():
    cache = DiskCache(None)
    cache.put("key", b"object")
    assert cache.get("key") is None


def test_the_longest_unused_go_first(tmp_path):
    cache = DiskCache(tmp_path, limit=10_000)
    for k in range(8):
        cache.put(str(k), bytes(2000))
        os.utime(entry(cache, str(k)), (1000 + k, 1000 + k))
    assert cache.get("0") is not None  # used just now
    assert cache.prune() > 0
    assert cache.size()[1] <= 10_000
    assert cache.get("0") is not None and cache.get("7") is not None and cache.get("1") is None


def test_files_of_others_stay(tmp_path):
    cache = DiskCache(tmp_path)
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "notes.txt").write_text("mine")
    (tmp_path / "letter").write_text("mine")
    cache.put("key", b"object")
    cache.clear()
    assert cache.size() == (0, 0)
    assert (tmp_path / "ab" / "notes.txt").exists() and (tmp_path / "letter").exists()


def test_abandoned_temporary_files_go(cache):
    cache.put("key", b"object")
    left = entry(cache, "key").parent / "tmp-left"
    left.write_bytes(b"x")
    cache.prune()
    assert left.exists()  # its writer may be alive
    os.utime(left, (1, 1))
    cache.prune()
    assert not left.exists()


def _hammer(folder, k, failed):
    cache = DiskCache(folder, limit=20_000)
    for i in range(60):
        key = str(i % 7)
        cache.put(key, key.encode() * 1000)
        if i % 5 == 0:
            cache.prune()
        found = cache.get(key)
        if found is not None and found != key.encode() * 1000:
            failed.set()


def test_many_processes_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    failed = context.Event()
    processes = [context.Process(target=_hammer, args=(tmp_path, k, failed)) for k in range(4)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(60)
    assert not failed.is_set() and all(p.exitcode == 0 for p in processes)


def test_cached_object_makes_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACEFUSE_CACHE_DIR", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return b"object"

    assert [module.cached_object("k", "t", make) for _ in range(3)] == [b"object"] * 3
    assert len(made) == 1
    monkeypatch.setenv("TRACEFUSE_CACHE_DIR", "off")
    assert module.cached_object("k", "t", make) == b"object" and len(made) == 2


def test_what_was_used_last_stays_in_memory():
    kept = Recent(10, len)
    for key in "abc":
        kept.put(key, key * 4)
        assert kept.get("a") == "aaaa"
    assert kept.get("b") is None and kept.get("c") == "cccc" and kept.total == 8
    kept.put("c", "c")
    assert kept.total == 5
    kept.put("d", "d" * 20)
    assert kept.get("d") is None and kept.total == 0
