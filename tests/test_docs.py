"""The Python in the documentation runs: the blocks of one file are one program."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def program(page: Path) -> str:
    """The page's blocks, each at the line where it stands."""
    text = page.read_text()
    lines = [""] * (text.count("\n") + 1)
    for found in BLOCK.finditer(text):
        first = text.count("\n", 0, found.start(1))
        block = found[1].splitlines()
        lines[first : first + len(block)] = block
    return "\n".join(lines)


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.name)
def test_code_blocks_run(page, tmp_path):
    script = tmp_path / f"{page.stem.replace('-', '_')}_blocks.py"
    script.write_text(program(page))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ), timeout=300
    )
    assert done.returncode == 0, f"{page.name}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


def test_the_coverage_page_is_current():
    """Else: python -m tracefuse.frontend.coverage > docs/coverage.md"""
    from tracefuse.frontend.coverage import coverage_page

    assert (ROOT / "docs" / "coverage.md").read_text() == coverage_page()


def test_triton_has_kernels_for_whatever_llvm_has():
    """Sample by sample the page is made of what both compile."""
    rows = [line.split(" | ") for line in (ROOT / "docs" / "coverage.md").read_text().splitlines() if line[:2] == "| "]
    llvm, triton = rows[0].index("LLVM"), rows[0].index("Triton")
    assert len(rows) > 150
    assert not [r[0].strip("| ") for r in rows[1:] if r[triton].startswith("host") and not r[llvm].startswith("host")]


def test_the_readme_has_both_commands():
    text = (ROOT / "README.md").read_text()
    assert "pip install -q -e '.[demo]' && .venv/bin/tracefuse demo" in text
    assert "pip install -q -e '.[test]' && .venv/bin/python -m pytest -n 2" in text
