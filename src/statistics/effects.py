"""A linear model with crossed random effects as a Gaussian process: scikit-learn fits the variances and the posterior.

The value of a row is a sum. Each fixed term is a product of factors times a coefficient. Each random term is a product
of factors times a coefficient of its own for each level of a label (task, model, ...). All coefficients are normal with
mean 0, so the values of all rows are jointly normal, with the covariance that `Effects` gives. A row whose label is
empty takes no random effect of that label: its value is that of the line.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel
from threadpoolctl import threadpool_limits

from src.statistics.items import Array

Factors = tuple[str, ...]

SMALLEST, LARGEST = 1e-4, 10.0
"""Bounds of a variance: standard deviations of .01 and 3.2 on the logit scale."""

START = 0.05
"""Where the search for every variance starts."""


@dataclass(frozen=True)
class Terms:
    """What a value is the sum of."""

    fixed: tuple[Factors, ...]
    random: tuple[tuple[str, Factors], ...]  # label, factors
    prior_sd: float  # of every fixed coefficient


def rows_of(points: pd.DataFrame, terms: Terms, codes: dict[str, int]) -> Array:
    """Points as one array: fixed terms, label codes, slopes. `codes` numbers the labels and learns new ones."""
    fixed = [product(points, factors) for factors in terms.fixed]
    labels = [coded(points[label], label, codes) for label, _ in terms.random]
    slopes = [product(points, factors) for _, factors in terms.random]
    return np.column_stack([*fixed, *labels, *slopes])


def product(points: pd.DataFrame, factors: Factors) -> Array:
    """The product of some columns; 1 where there is none."""
    return np.prod([np.ones(len(points)), *(points[name].to_numpy(dtype=float) for name in factors)], axis=0)


def coded(values: pd.Series, label: str, codes: dict[str, int]) -> Array:
    """A number for each level, and -1 for the empty one."""
    keys = [f"{label}:{value}" if value else "" for value in values]
    return np.array([codes.setdefault(key, len(codes)) if key else -1 for key in keys], dtype=float)


class Effects(Kernel):  # type: ignore[misc]
    """Covariance of the values of two sets of rows.

    prior_sd^2 times the products of the fixed terms, and for each random term its variance times the product of the
    slopes, where both rows have the same level.
    """

    def __init__(self, variances: Any, terms: Terms) -> None:
        self.variances = variances
        self.terms = terms
        self._own: tuple[Array, Array] | None = None  # the rows of the last gradient and their parts

    @property
    def hyperparameter_variances(self) -> Any:
        """The variances of the random terms; scikit-learn searches their logarithms."""
        size = len(self.terms.random)
        return Hyperparameter("variances", "numeric", np.array([[SMALLEST, LARGEST]] * size), size)

    def parts(self, left: Array, right: Array) -> Array:
        """Shape (random terms, rows of left, rows of right): each term's covariance at variance 1."""
        first, many = len(self.terms.fixed), len(self.terms.random)
        out = np.empty((many, len(left), len(right)))
        for term in range(many):
            a, b = left[:, [first + term, first + many + term]].T, right[:, [first + term, first + many + term]].T
            out[term] = np.where((a[0][:, None] == b[0]) & (b[0] >= 0), np.outer(a[1], b[1]), 0.0)
        return out

    def __call__(self, X: Array, Y: Array | None = None, eval_gradient: bool = False) -> Any:
        """The covariance, and its gradient in the log variances where it is asked for."""
        other = X if Y is None else Y
        first = len(self.terms.fixed)
        if eval_gradient and (self._own is None or self._own[0] is not X):
            self._own = X, self.parts(X, X)
        parts = self._own[1] if eval_gradient and self._own else self.parts(X, other)
        scaled = parts * np.asarray(self.variances)[:, None, None]
        covariance = self.terms.prior_sd**2 * X[:, :first] @ other[:, :first].T + scaled.sum(axis=0)
        return (covariance, np.moveaxis(scaled, 0, -1)) if eval_gradient else covariance

    def diag(self, X: Array) -> Array:
        """The variance of each row's value."""
        first, many = len(self.terms.fixed), len(self.terms.random)
        labels, slopes = X[:, first : first + many], X[:, first + many :]
        random = ((labels >= 0) * slopes**2) @ np.asarray(self.variances)
        return np.asarray(self.terms.prior_sd**2 * (X[:, :first] ** 2).sum(axis=1) + random)

    def is_stationary(self) -> bool:
        """Whether only the distance of two rows counts."""
        return False


@dataclass(frozen=True)
class Posterior:
    """The fitted model: the joint normal distribution of the values at any points."""

    regressor: Any
    terms: Terms
    codes: dict[str, int]

    @property
    def variances(self) -> Array:
        """One a random term."""
        return np.asarray(self.regressor.kernel_.variances)

    def at(self, points: pd.DataFrame) -> tuple[Array, Array]:
        """Mean, shape (points,), and covariance, shape (points, points)."""
        mean, covariance = self.regressor.predict(rows_of(points, self.terms, dict(self.codes)), return_cov=True)
        return np.asarray(mean), np.asarray(covariance)


def fit(points: pd.DataFrame, y: Array, noise: Array, terms: Terms, variances: Array | None = None) -> Posterior:
    """The posterior given values `y` that were seen with known sampling variances `noise`, both of shape (points,).

    The variances of the random terms maximise the marginal likelihood of y, with the coefficients integrated out. Their
    logarithms are rounded to two digits, so that every processor goes on with the same ones. Where variances are given,
    these are taken.
    """
    with threadpool_limits(1):  # matrices this small are slower on several threads, and sums differ with their number
        return _fit(points, y, noise, terms, variances)


def _fit(points: pd.DataFrame, y: Array, noise: Array, terms: Terms, variances: Array | None) -> Posterior:
    codes: dict[str, int] = {}
    design = rows_of(points, terms, codes)
    if variances is None:
        start = Effects(np.full(len(terms.random), START), terms)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a variance at its bound is no fault
            searched = GaussianProcessRegressor(start, alpha=noise, optimizer=search).fit(design, y)
        variances = np.exp(np.round(searched.kernel_.theta, 2))
    regressor = GaussianProcessRegressor(Effects(variances, terms), alpha=noise, optimizer=None).fit(design, y)
    return Posterior(regressor, terms, codes)


def search(objective: Callable[[Array], Any], start: Array, bounds: Sequence[Any]) -> tuple[Array, float]:
    """The optimizer that scikit-learn calls: L-BFGS-B to a gradient of .01, far below the rounding of `fit`."""
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"gtol": 1e-2, "ftol": 1e-12}
    )
    return np.asarray(found.x), float(found.fun)
