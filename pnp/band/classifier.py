"""A fitted two-class scikit-learn estimator with thresholds: it may say "uncertain"."""

from typing import Any, cast

import numpy as np
from jaxtyping import Float64, Int8
from numpy.typing import ArrayLike
from sklearn.base import (  # pyright: ignore[reportMissingTypeStubs]
    BaseEstimator,
    MetaEstimatorMixin,
    clone,  # pyright: ignore[reportUnknownVariableType]
)
from sklearn.exceptions import NotFittedError  # pyright: ignore[reportMissingTypeStubs]
from sklearn.utils.validation import (  # pyright: ignore[reportMissingTypeStubs]
    check_is_fitted,  # pyright: ignore[reportUnknownVariableType]
)

from pnp.band.inputs import as_vector
from pnp.band.thresholds import ThreeWayThreshold
from pnp.errors import UserError


class ThreeWayClassifier(MetaEstimatorMixin, BaseEstimator):
    """A fitted two-class scikit-learn estimator that may say "uncertain"; `fit` only calibrates.

    Args:
        estimator: fitted classifier of classes 0 and 1 with `decision_function` or `predict_proba`;
            it is never refitted.
        threshold: the `ThreeWayThreshold` to calibrate; a clone of it becomes `threshold_`.
    """

    def __init__(self, estimator: Any, threshold: ThreeWayThreshold) -> None:
        """Store the parameters (scikit-learn's convention)."""
        self.estimator = estimator
        self.threshold = threshold

    def fit(self, X: Any, y: ArrayLike) -> "ThreeWayClassifier":
        """Calibrate the thresholds on inputs and labels that the estimator has not seen.

        Raises:
            NotFittedError: if the estimator is not fitted.
            UserError: if its classes are not 0 and 1, or as in `ThreeWayThreshold.fit`.
        """
        if not hasattr(self.estimator, "classes_"):
            raise NotFittedError(
                f"estimator: {type(self.estimator).__name__} is not a fitted classifier (it has no "
                "classes_). Fit it first, on samples other than the calibration split."
            )
        classes = np.asarray(self.estimator.classes_)
        if classes.tolist() != [0, 1]:
            raise UserError(f"estimator.classes_={classes.tolist()}, expected [0, 1].")
        self.classes_ = classes
        fresh = cast(ThreeWayThreshold, clone(self.threshold))
        self.threshold_ = fresh.fit(self._scores(X), y)
        return self

    def decision_function(self, X: Any) -> Float64[np.ndarray, " n"]:
        """Scores of shape (n,): the estimator's decision function, else its log-odds."""
        check_is_fitted(self)
        return self._scores(X)

    def predict(self, X: Any) -> Int8[np.ndarray, " n"]:
        """Return 1 in P, 0 in not-P and the threshold's `abstain_value` in the band."""
        return self.threshold_.predict(self.decision_function(X))

    def _scores(self, X: Any) -> Float64[np.ndarray, " n"]:
        if hasattr(self.estimator, "decision_function"):
            return as_vector(self.estimator.decision_function(X), "decision_function")
        tiny = np.finfo(np.float64).tiny
        odds = np.log(np.maximum(np.asarray(self.estimator.predict_proba(X), np.float64), tiny))
        return as_vector(odds[:, 1] - odds[:, 0], "log-odds of predict_proba")
