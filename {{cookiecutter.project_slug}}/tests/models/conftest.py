"""Tables of scikit-learn as samples."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_wine


@pytest.fixture
def diabetes(tmp_path: Path) -> pd.DataFrame:
    """The table as a sample file ``s.csv``, target ``y``; returned without the target."""
    table = load_diabetes(as_frame=True).frame.rename(columns={"target": "y"})
    table.to_csv(tmp_path / "s.csv", index=False)
    return table.drop(columns="y")


@pytest.fixture
def wine(tmp_path: Path) -> pd.DataFrame:
    """The table as a sample file ``s.csv``, target ``y`` (three classes); returned without the target."""
    table = load_wine(as_frame=True).frame.rename(columns={"target": "y"})
    table.to_csv(tmp_path / "s.csv", index=False)
    return table.drop(columns="y")
