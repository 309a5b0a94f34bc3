"""Read trained scikit-learn estimators from files, without running code that nobody reviewed."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ProjectError

PICKLES = (".joblib", ".pkl", ".pickle")
SUFFIXES = (".skops", *PICKLES)

# Types that skops does not know, each read in its library's source: they hold numbers and run nothing when loaded.
REVIEWED = frozenset(
    {
        "numpy.dtype",
        "numpy.mean",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "scipy.interpolate._bsplines.BSpline",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
    }
)


def read(path: Path, *, trusted: Sequence[str] = (), trust_pickle: bool = False) -> Any:
    """Load a fitted estimator.

    Args:
        path: a ``.skops`` file, or a ``.joblib``, ``.pkl`` or ``.pickle`` file.
        trusted: types that a skops file may contain beside those that skops knows.
        trust_pickle: allow pickles. Loading a pickle runs whatever code its author put in it.

    Raises:
        ProjectError: the file cannot be read, holds a type that is not trusted, or is a pickle without leave.
    """
    if path.suffix not in SUFFIXES:
        raise ProjectError(f"{path.name} is none of the formats that can be imported: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ProjectError(f"there is no file {path}")
    if path.suffix in PICKLES and not trust_pickle:
        raise ProjectError(
            f"{path.name} is a pickle, which runs code when it is loaded: save the model with skops instead,"
            " or pass --trust-pickle if you trust where it comes from"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a difference of versions is recorded in the provenance
            if path.suffix == ".skops":
                import skops.io

                return skops.io.load(path, trusted=list(trusted))
            import joblib

            return joblib.load(path)
    except Exception as error:  # a damaged file makes these libraries raise anything
        raise ProjectError(f"{path.name} cannot be loaded ({first_line(error)}): save it again") from None


def reviewed_types(path: Path) -> list[str]:
    """Return the types of a skops file that need trust, all of them reviewed; empty for other formats.

    Raises:
        ProjectError: the file cannot be read, or one of its types was not reviewed.
    """
    if path.suffix != ".skops" or not path.is_file():
        return []
    import skops.io

    try:
        types = skops.io.get_untrusted_types(file=path)
    except Exception as error:  # as above
        raise ProjectError(f"{path.name} cannot be loaded ({first_line(error)}): save it again") from None
    if strange := sorted(set(types) - REVIEWED):
        raise ProjectError(
            f"{path.name} contains the type {strange[0]}, which was not reviewed: if it is harmless, add it to"
            " REVIEWED in models/estimators.py"
        )
    return sorted(types)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """Return what an error says, short enough for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
