"""Files of tensors between tracefuse and PyTorch."""

import pytest
from tracefuse.frontend import nn
from tracefuse.frontend.serialize import load_tensors, save

import tracefuse as tr

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402


def test_pytorch_reads_what_is_written(tmp_path):
    given = {"w": tr.ones((2, 3), dtype="bfloat16"), "n": tr.arange(3), "c": tr.asarray([1j], dtype="complex64")}
    save(given, tmp_path / "ours")
    found = load_file(tmp_path / "ours")
    assert found["w"].dtype is torch.bfloat16 and found["w"].shape == (2, 3) and found["n"].tolist() == [0, 1, 2]
    assert found["c"].tolist() == [1j]


def test_what_pytorch_writes_is_read(tmp_path):
    save_file({"w": torch.full((2,), 0.5, dtype=torch.bfloat16), "b": torch.tensor(True)}, tmp_path / "theirs")
    for mmap in (False, True):
        found = load_tensors(tmp_path / "theirs", mmap=mmap)
        assert found["w"].dtype is tr.bfloat16 and found["w"].tolist() == [0.5, 0.5] and found["b"].item() is True


def test_models_go_both_ways(tmp_path):
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    save_file(theirs.state_dict(), tmp_path / "theirs")
    ours.load_state_dict(load_tensors(tmp_path / "theirs"))
    assert ours[0].weight.tolist() == theirs[0].weight.tolist()
    save(ours, tmp_path / "ours")
    theirs.load_state_dict(load_file(tmp_path / "ours"))
