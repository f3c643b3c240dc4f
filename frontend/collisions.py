"""Names that NumPy with the array API and PyTorch share with different meanings, and which one tracefuse took.

`docs/collisions.md` is made of this list (`python -m tracefuse.frontend.collisions > docs/collisions.md`). Every example
is an expression that is true: tests evaluate them.
"""

from __future__ import annotations

from typing import NamedTuple


class Collision(NamedTuple):
    """One name. `array_api`, `pytorch`: what it means there; `choice`: what it means here; `example`: true, with `tr`,
    `np`, and x = [[3., 1., 2.], [6., 5., 4.]]."""

    name: str
    array_api: str
    pytorch: str
    choice: str
    example: str


COLLISIONS = (
    # ---- reductions
    Collision(
        "max, min",
        "the largest element over `axis`",
        "with `dim`: a pair (values, indices); of two tensors: the larger of each pair",
        "array API; `maximum` for pairs, `argmax` for indices, `dim` is another name of `axis`",
        "tr.max(x, axis=1).tolist() == x.max(dim=1).tolist() == [3, 6]",
    ),
    Collision(
        "std, var",
        "divided by n - `correction`, which is 0",
        "divided by n - `correction`, which is 1",
        "array API; `unbiased=True` is understood as PyTorch's",
        "round(tr.var(x[0]).item(), 4) == 0.6667 and tr.var(x[0], unbiased=True).item() == 1",
    ),
    Collision(
        "median",
        "NumPy: the mean of the two middle elements",
        "the lower of the two, with its index",
        "NumPy",
        "tr.median(tr.asarray([1.0, 2.0, 3.0, 4.0])).item() == 2.5",
    ),
    Collision(
        "sum, prod",
        "small integers and bools are summed in 64 bits, unsigned ones in uint64",
        "all integers are summed in int64",
        "array API",
        "tr.sum(tr.asarray([1], dtype=tr.uint8)).dtype is tr.uint64",
    ),
    Collision(
        "mean",
        "NumPy: of integers in float64",
        "TypeError for integers",
        "of integers in the default float type",
        "tr.mean(tr.asarray([1, 2])).dtype is tr.float32",
    ),
    Collision(
        "all, any",
        "`axis=None` reduces everything, `()` nothing",
        "one `dim`, or everything",
        "array API",
        "tr.all(x > 0).ndim == 0 and tr.all(x > 0, axis=()).shape == (2, 3)",
    ),
    # ---- sorting, searching, sets
    Collision(
        "sort",
        "the sorted elements",
        "a pair (values, indices)",
        "array API; `argsort` gives the indices",
        "tr.sort(x).tolist() == x.sort().tolist() == [[1, 2, 3], [4, 5, 6]]",
    ),
    Collision(
        "nonzero",
        "one index tensor for each axis",
        "one tensor [n, ndim]",
        "array API",
        "[i.tolist() for i in tr.nonzero(x > 4)] == [[1, 1], [0, 1]]",
    ),
    Collision(
        "equal",
        "element by element",
        "one bool: whether shape and all elements are equal",
        "array API",
        "tr.equal(x, 3).tolist() == [[True, False, False], [False] * 3]",
    ),
    # ---- shapes
    Collision(
        "split",
        "NumPy: an integer is the number of parts",
        "an integer is the size of a part",
        "PyTorch; `chunk` takes the number of parts",
        "[p.shape[1] for p in tr.split(x, 2, axis=1)] == [2, 1]",
    ),
    Collision(
        "repeat",
        "each element so many times in a row",
        "the whole tensor so many times",
        "array API, also as a method; `tile` repeats the whole, `repeat_interleave` is PyTorch's name of this one",
        "tr.repeat(x[0], 2).tolist() == x[0].repeat(2).tolist() == [3, 3, 1, 1, 2, 2]",
    ),
    Collision(
        "size",
        "an attribute: the number of elements",
        "a method: the shape",
        "both: `x.size` is a number that can be called",
        "x.size == 6 and x.size() == (2, 3) and x.size(1) == 3",
    ),
    Collision(
        "transpose",
        "NumPy: all axes in reverse or in the order given",
        "exchanges two axes",
        "two axes are exchanged; none or all of several are NumPy's",
        "tr.ones(2, 3, 4).transpose(0, 1).shape == (3, 2, 4) and tr.ones(2, 3, 4).transpose().shape == (4, 3, 2)",
    ),
    Collision(
        "squeeze",
        "ValueError for an axis longer than 1",
        "such an axis stays",
        "`axis` as in the array API, `dim` as in PyTorch",
        "tr.squeeze(x, dim=0).shape == (2, 3)",
    ),
    Collision(
        "take",
        "slices along `axis`",
        "elements of the flat tensor",
        "array API; without `axis` of the flat tensor, as in NumPy",
        "tr.take(x, [0, 2], axis=1).shape == (2, 2) and tr.take(x, [3]).tolist() == [6]",
    ),
    Collision(
        "diagonal, trace",
        "of the last two axes (NumPy: of the first two)",
        "of the first two axes",
        "array API for `trace` and `linalg.diagonal`; `diagonal` has `axis1` and `axis2`, the last two unless given",
        "tr.trace(tr.ones(5, 2, 2)).shape == (5,) and tr.linalg.diagonal(tr.ones(5, 2, 2)).shape == (5, 2)",
    ),
    Collision(
        "diff",
        "`axis` and `n` are keywords (NumPy: n first)",
        "n first, then `dim`",
        "n first, `axis` or `dim`",
        "tr.diff(x, 1, 0).tolist() == [[3, 4, 2]]",
    ),
    Collision(
        "flip",
        "`axis`; None means all",
        "`dims`, which must be given",
        "array API; `dims` is another name",
        "tr.flip(x).tolist() == tr.flip(x, dims=(0, 1)).tolist() == [[4, 5, 6], [2, 1, 3]]",
    ),
    # ---- creation
    Collision(
        "float",
        "NumPy's default is float64",
        "the default is float32",
        "PyTorch; ndarrays keep their type, and compiled NumPy-style functions keep NumPy's rules",
        "tr.asarray([1.0]).dtype is tr.float32 and tr.asarray(np.ones(1)).dtype is tr.float64",
    ),
    Collision(
        "meshgrid",
        'indexing is "xy": the first two axes are swapped',
        'indexing is "ij"',
        "array API",
        "tr.meshgrid(tr.arange(2), tr.arange(3))[0].shape == (3, 2)",
    ),
    Collision(
        "tril, triu",
        "`k` counts diagonals",
        "`diagonal` counts them",
        "both keywords",
        "tr.triu(x, k=1).tolist() == tr.triu(x, diagonal=1).tolist() == [[0, 1, 2], [0, 0, 4]]",
    ),
    Collision(
        "zeros, ones, empty",
        "the shape is one argument",
        "sizes may be arguments of their own; `empty` is uninitialised",
        "both; `empty` gives zeros, so that no two runs differ",
        "tr.zeros(2, 3).shape == tr.zeros((2, 3)).shape and tr.empty(3).tolist() == [0, 0, 0]",
    ),
    # ---- arithmetic
    Collision(
        "promotion",
        "integers with floats are undefined (NumPy: int32 with float32 gives float64)",
        "the float type wins",
        "PyTorch; Python numbers are weak in both",
        "(tr.asarray([1]) + tr.asarray([1.0])).dtype is tr.float32 and (tr.asarray([1.0]) + 2).dtype is tr.float32",
    ),
    Collision(
        "remainder",
        "has the sign of the divisor",
        "has the sign of the divisor; `fmod` that of the dividend",
        "the same in all: `%` and `remainder` follow Python",
        "tr.remainder(tr.asarray(-1.0), 3).item() == 2 and (tr.asarray(-7) // 2).item() == -4",
    ),
    Collision(
        "sign",
        "of complex numbers x / abs(x)",
        "TypeError for complex numbers; `sgn` there",
        "array API",
        "tr.sign(tr.asarray(3j)).item() == 1j",
    ),
    Collision(
        "clip",
        "`min` and `max`, the result has the type of x",
        "`clamp`, the result is promoted",
        "array API; `clamp` is another name of the method",
        "tr.clip(tr.asarray([1, 5]), max=3).tolist() == tr.asarray([1, 5]).clamp(max=3).tolist() == [1, 3]",
    ),
    Collision(
        "vecdot",
        "conjugates the first operand; sums over `axis`",
        "`linalg.vecdot` does the same, `vdot` takes 1-D tensors only",
        "array API",
        "tr.vecdot(tr.asarray([1j]), tr.asarray([1j])).item() == 1",
    ),
    Collision(
        "norm",
        "`linalg.vector_norm` and `linalg.matrix_norm`; NumPy's `linalg.norm` takes `ord`",
        "`norm` takes `p` and never is a matrix norm; `linalg.norm` takes `ord`",
        "`tr.norm` as PyTorch's, `tr.linalg.norm` as NumPy's and PyTorch's",
        "tr.norm(x, 1).item() == 21 and tr.linalg.norm(x, 1).item() == 9",
    ),
    Collision(
        "svd",
        "`Vh`, the adjoint of V; full matrices",
        "`torch.svd` gives V; `torch.linalg.svd` is the array API's",
        "array API, in `tr.linalg`",
        "tr.linalg.svd(x).Vh.shape == (3, 3) and tr.linalg.svd(x, full_matrices=False).Vh.shape == (2, 3)",
    ),
    # ---- the tensor itself
    Collision(
        "T",
        "matrices only (NumPy: all axes in reverse)",
        "all axes in reverse; other than matrices deprecated",
        "all axes in reverse; `mT` exchanges the last two",
        "tr.ones(2, 3, 4).T.shape == (4, 3, 2) and tr.ones(2, 3, 4).mT.shape == (2, 4, 3)",
    ),
    Collision(
        "view",
        "NumPy: the same bytes as another type",
        "the same elements under another shape; with a type as in NumPy",
        "PyTorch",
        "x.view(3, 2).shape == (3, 2) and x.view(tr.int32).dtype is tr.int32",
    ),
    Collision(
        "device",
        "an object of the library",
        "a `torch.device`",
        'the string "cpu"',
        'x.device == "cpu" and x.to_device("cpu") is x',
    ),
    Collision(
        "float, int, bool",
        "`bool` is an element type of the namespace",
        "`torch.float`, `torch.bool` are element types; `x.float()`, `x.int()` are casts",
        "both",
        "tr.float is tr.float32 and tr.bool is tr.bool_ and x.int().dtype is tr.int32",
    ),
)  # fmt: skip


def page() -> str:
    """The text of `docs/collisions.md`."""
    lines = [
        "# Names that two worlds share",
        "",
        "Where one name means one thing in NumPy and the array API standard and another in PyTorch, the array API wins at",
        "top level and on `Tensor`; `nn`, `optim`, `data` and losses are PyTorch's. `axis` and `keepdims` may be written",
        "`dim` and `keepdim`. This page is generated from `frontend/collisions.py`; the examples are run by a test, with",
        "`x = tr.asarray([[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]])`.",
        "",
        "| name | array API, NumPy | PyTorch | tracefuse | for example |",
        "| --- | --- | --- | --- | --- |",
    ]
    for c in COLLISIONS:
        lines.append(f"| {c.name} | {c.array_api} | {c.pytorch} | {c.choice} | `{c.example}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
