"""What goes wrong is said in the user's words: the kind of error, the shapes or dtypes, and the line that made the call."""

import traceback

import pytest
import tracefuse.nn.functional as F

import tracefuse as tr
from tracefuse import nn, optim

A, B = tr.ones((2, 3)), tr.ones((4, 5))
WORDS = ["a", "b"]

CASES = {  # family and mistake: (call, error, what the message has to name)
    "pointwise shape": (lambda: A + B, ValueError, ["2, 3", "4, 5"]),
    "pointwise type": (lambda: tr.exp(WORDS), TypeError, ["<U1"]),
    "bits of floats": (lambda: tr.bitwise_and(A, A), TypeError, ["f32"]),
    "where shape": (lambda: tr.where(A > 0, B, B), ValueError, ["2, 3", "4, 5"]),
    "reduction axis": (lambda: tr.sum(A, axis=2), IndexError, ["2"]),
    "reduction twice": (lambda: tr.sum(A, axis=(0, -2)), ValueError, ["0"]),
    "argmax axis": (lambda: tr.argmax(A, axis=5), IndexError, ["5"]),
    "scan axis": (lambda: tr.cumulative_sum(A, axis=3), IndexError, ["3"]),
    "matmul shape": (lambda: A @ B, ValueError, ["2, 3", "4, 5"]),
    "einsum shape": (lambda: tr.einsum("ij,jk->ik", A, B), ValueError, ["3", "4"]),
    "reshape size": (lambda: tr.reshape(A, (4, 2)), ValueError, ["2, 3", "4, 2"]),
    "permute axes": (lambda: tr.permute_dims(A, (0, 0)), ValueError, ["0, 0"]),
    "concat shape": (lambda: tr.concat([A, B], axis=0), ValueError, ["2, 3", "4, 5"]),
    "stack shape": (lambda: tr.stack([A, B]), ValueError, ["2, 3", "4, 5"]),
    "broadcast": (lambda: tr.broadcast_to(A, (3, 2)), ValueError, ["2, 3", "3, 2"]),
    "squeeze": (lambda: tr.squeeze(A, axis=0), ValueError, ["2"]),
    "index range": (lambda: A[2], IndexError, ["2"]),
    "index rank": (lambda: A[0, 0, 0], IndexError, ["3", "2"]),
    "index type": (lambda: A[1.5], IndexError, ["float"]),
    "index tensor": (lambda: A[tr.asarray([0, 7])], IndexError, ["7"]),
    "mask shape": (lambda: A[tr.ones(3) > 0], IndexError, ["3", "2"]),
    "assignment": (lambda: A.clone().__setitem__(0, B), ValueError, ["(4,5)"]),
    "gather rank": (lambda: tr.take_along_axis(A, tr.zeros(3, dtype=tr.int64), axis=0), ValueError, ["3", "2, 3"]),
    "sort axis": (lambda: tr.sort(A, axis=4), IndexError, ["4"]),
    "topk size": (lambda: tr.topk(A, 9), (ValueError, IndexError), ["9"]),
    "linalg square": (lambda: tr.linalg.inv(A), ValueError, ["2, 3"]),
    "solve shape": (lambda: tr.linalg.solve(tr.eye(3), B), ValueError, ["3", "4, 5"]),
    "fft type": (lambda: tr.fft.rfft(tr.asarray([1j])), TypeError, ["complex64"]),
    "random bounds": (lambda: tr.randint(5, 2, (3,)), ValueError, ["5", "2"]),
    "dtype": (lambda: tr.zeros(3, dtype="float33"), TypeError, ["float33"]),
    "device": (lambda: tr.zeros(3, device="tpu"), (ValueError, TypeError), ["tpu"]),
    "device of a tensor": (lambda: A.to("mps"), ValueError, ["mps", "cpu"]),
    "device of randoms": (lambda: tr.randn(3, device="cuda:99"), RuntimeError, ["cuda:99"]),
    "in-place": (lambda: A.clone().add_(tr.ones((5, 2, 3))), ValueError, ["(5,2,3)"]),
    "item": (lambda: A.item(), (ValueError, RuntimeError), ["2, 3"]),
    "truth": (lambda: bool(A), (ValueError, RuntimeError), []),
    "linear": (lambda: nn.Linear(4, 2)(A), ValueError, ["2, 3", "4"]),
    "conv rank": (lambda: nn.Conv2d(1, 2, 3)(A), ValueError, ["2, 3"]),
    "conv channels": (lambda: nn.Conv2d(1, 2, 3)(tr.ones((1, 3, 8, 8))), ValueError, ["3"]),
    "pool size": (lambda: F.max_pool2d(tr.ones((1, 1, 2, 2)), 5), ValueError, ["5"]),
    "norm shape": (lambda: nn.LayerNorm(4)(A), ValueError, ["4", "2, 3"]),
    "embedding": (lambda: nn.Embedding(3, 2)(tr.asarray([5])), IndexError, ["3"]),
    "target class": (lambda: F.cross_entropy(A, tr.asarray([0, 9])), IndexError, ["3"]),
    "loss shape": (lambda: F.mse_loss(A, B), ValueError, ["2, 3", "4, 5"]),
    "lstm input": (lambda: nn.LSTM(4, 2)(tr.ones((5, 1, 3))), ValueError, ["5, 1, 3", "4"]),
    "attention heads": (lambda: nn.MultiheadAttention(5, 2), ValueError, ["5", "2"]),
    "state": (lambda: nn.Linear(2, 2).load_state_dict({"weight": A}), RuntimeError, ["bias"]),
    "learning rate": (lambda: optim.SGD([nn.Parameter(A)], lr=-1.0), ValueError, ["-1"]),
    "backward shape": (lambda: (A.clone().requires_grad_() * 2).backward(), RuntimeError, ["2, 3"]),
    "grad of integers": (lambda: tr.ones(3, dtype=tr.int64).requires_grad_(), TypeError, ["int64"]),
    "vmap sizes": (lambda: tr.vmap(lambda x, y: x + y)(A, B), ValueError, ["2", "4"]),
}


@pytest.mark.parametrize("name", CASES)
def test_mistakes_are_named(name):
    call, error, words = CASES[name]
    with pytest.raises(error) as caught:
        call()
    missing = [w for w in words if w not in str(caught.value)]
    assert not missing, str(caught.value)
    assert any(frame.filename == __file__ for frame in traceback.extract_tb(caught.tb))
