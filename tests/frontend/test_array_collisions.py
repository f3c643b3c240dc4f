"""The table of names that NumPy and PyTorch share is true, and its page is the one in docs/."""

from pathlib import Path

import numpy as np
import pytest
from tracefuse.frontend.collisions import COLLISIONS, page

import tracefuse as tr

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("collision", COLLISIONS, ids=lambda c: c.name)
def test_the_stated_choice_is_true(collision):
    x = tr.asarray([[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]])
    assert eval(collision.example, {"tr": tr, "np": np, "x": x}) is True


def test_the_page_is_made_of_the_list():
    assert (DOCS / "collisions.md").read_text() == page()


def test_the_names_of_the_design_are_in_the_table():
    names = {n for c in COLLISIONS for n in c.name.split(", ")}
    assert {"sort", "max", "min", "std", "split", "repeat", "size", "transpose", "median"} <= names
