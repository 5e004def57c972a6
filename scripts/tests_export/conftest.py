"""Paths, and the one question that some tests ask: is transformers here?"""
import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from sluice_export import cli  # noqa: E402
import tiny_models  # noqa: E402


@pytest.fixture
def export(capsys):
    """export(*arguments) -> (exit status, stderr)."""
    def run(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as e:             # argparse: wrong usage
            status = e.code
        return status, capsys.readouterr().err
    return run


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(case) -> folder of a fresh tiny model."""
    return lambda case: tiny_models.make(case, tmp_path / case)


@pytest.fixture
def texts(tmp_path):
    """A calibration file of 200 distinct short texts."""
    words = "the quick brown fox jumps over lazy dogs two words london ada met charles 1 22 333 zebra".split()
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(words[(i * k + k) % len(words)] for k in range(1, 3 + i % 9)) + f" {i}"
                              for i in range(200)))
    return path


def has_transformers():
    return all(importlib.util.find_spec(m) for m in ("torch", "transformers"))
