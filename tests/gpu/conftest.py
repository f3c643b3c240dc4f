"""These tests need a GPU: `TRACEFUSE_CUDA= python -m pytest tests/gpu`. Elsewhere they are skipped."""

import pytest

import tracefuse as tr


def pytest_collection_modifyitems(config, items):
    reason = "the GPU is emulated: unset TRACEFUSE_CUDA" if _is_emulated() else tr.cuda.why_not()
    if reason:
        for item in items:
            if "gpu" in item.path.parent.name:
                item.add_marker(pytest.mark.skip(reason=reason))


def _is_emulated() -> bool:
    from tracefuse.runtime import knobs

    return bool(knobs.KNOBS["TRACEFUSE_CUDA"].get())
