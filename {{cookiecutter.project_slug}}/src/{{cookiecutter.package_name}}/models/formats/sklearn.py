"""Scikit-learn and its like, saved by skops, or by joblib or pickle where that is trusted."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ProjectError
from . import Found, Imported, broken, first_line

if TYPE_CHECKING:
    from ..bundle import Bundle

KIND = "skops (.skops), joblib or pickle (.joblib, .pkl, .pickle; with --trust-pickle)"
PICKLES = (".joblib", ".pkl", ".pickle")

# Types that skops does not know, each read in its library's source: they hold numbers and run nothing when loaded. The
# function of a `functools.partial` is a type by itself, which must be here too.
REVIEWED = frozenset(
    {
        "collections.OrderedDict",
        "functools.partial",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRegressor",
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
        "sklearn.utils.validation.check_array",
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRegressor",
    }
)


def accepts(reference: str) -> bool:
    """Whether this is a skops file or a pickle, by its name."""
    return Path(reference).suffix in (".skops", *PICKLES)


def read(found: Found) -> Imported:
    """Load an estimator, unless it holds what nobody reviewed, or is a pickle without leave.

    Raises:
        ProjectError: with the reason.
    """
    path = found.path
    pickled = path.suffix != ".skops"  # by whatever name
    if pickled and not found.trust_pickle:
        raise ProjectError(
            f"{path.name} is a pickle, which runs code when it is loaded: save the model with skops instead,"
            " or pass --trust-pickle if you trust where it comes from"
        )
    trusted = () if pickled else _reviewed(found)
    try:
        estimator = _load(path, trusted)
    except ImportError as error:
        raise ProjectError(f"{path.name} needs a library that is not installed ({first_line(error)})") from None
    except Exception as error:  # a damaged file makes these libraries raise anything
        raise broken(path, error) from None
    name = "model" + path.suffix
    package = type(estimator).__module__.partition(".")[0]
    library = {"sklearn": "scikit-learn"}.get(package, package)
    files = {name: path.read_bytes()}
    return Imported(estimator, "sklearn", files, name, trusted, code=pickled, origin=found.origin, library=library)


def load(bundle: Bundle) -> Any:
    """Load the estimator of a bundle."""
    return _load(bundle.model_file, bundle.manifest["trusted"])


def _reviewed(found: Found) -> tuple[str, ...]:
    """Return the types of a skops file that need trust, all of them reviewed here or trusted by name."""
    import skops.io

    path = found.path
    try:
        with zipfile.ZipFile(path) as archive:
            if bad := [name for name in archive.namelist() if name.startswith("/") or ".." in Path(name).parts]:
                raise ProjectError(f"{path.name} names the file {bad[0]!r} outside itself: do not use it")
        types = skops.io.get_untrusted_types(file=path)
    except ProjectError:
        raise
    except Exception as error:  # a damaged file makes it raise anything
        raise broken(path, error) from None
    if strange := sorted(set(types) - REVIEWED - set(found.trusted)):
        raise ProjectError(
            f"{path.name} contains {', '.join(strange)}, which was not reviewed: if you know that it is harmless,"
            f" allow it with --trust-type {strange[0]}"
        )
    return tuple(sorted(types))


def _load(path: Path, trusted: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a difference of versions is recorded in the provenance
        if path.suffix == ".skops":
            import skops.io

            return skops.io.load(path, trusted=list(trusted))
        import joblib

        return joblib.load(path)
