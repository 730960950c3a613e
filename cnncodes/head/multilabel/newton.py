"""Many logistic regressions with two classes on the same points, all at once.

Each problem has targets and weights of its own, and weights of zero leave points out: so labels
that are unknown for some images, and the folds of a cross-validation, are problems on the same
points, which are never copied. What is computed for one problem by a matrix and a vector is
computed for all by a product of matrices, which a processor does several times as fast.

Each is solved by Newton's method, whose steps are computed by conjugate gradients with a diagonal
preconditioner (Nocedal and Wright, "Numerical Optimization", 2006, chapter 7), and halved until
the loss decreases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

MAX_STEPS, MAX_INNER = 50, 200
MAX_HALVINGS = 30
SUFFICIENT = 1e-4  # of the decrease that the gradient promises (Armijo)


@dataclass
class Problems:
    """Logistic regressions on the same points, and where their solutions are.

    Minimises ``½|w|² + C Σᵢ sᵢ log(1 + exp(−tᵢ (xᵢ·w + b)))`` for each, with t of 1 and −1: the
    loss of scikit-learn's LogisticRegression, whose bias is not penalised either.

    Attributes
    ----------
    points : ndarray of float32 or float64, shape (n_points, n_dimensions)
        The points x.
    targets : ndarray of bool, shape (n_points, n_problems)
        Which points have the label.
    sample_weights : ndarray, shape (n_points, n_problems)
        The weights s, 0 for points that are left out.
    weights : ndarray, shape (n_dimensions, n_problems)
        The solutions w, from which `solve` starts.
    bias : ndarray, shape (n_problems,)
        Their biases b.
    """

    points: NDArray[Any]
    targets: NDArray[np.bool_]
    sample_weights: NDArray[Any]
    weights: NDArray[Any]
    bias: NDArray[Any]

    @classmethod
    def of(
        cls, points: NDArray[Any], targets: NDArray[np.bool_], sample_weights: NDArray[Any]
    ) -> Problems:
        """Return problems that start from zero."""
        n_problems, dtype = targets.shape[1], points.dtype
        zeros = np.zeros((points.shape[1], n_problems), dtype)
        return cls(
            points, targets, sample_weights.astype(dtype), zeros, np.zeros(n_problems, dtype)
        )

    def on(self, points: NDArray[Any]) -> Problems:
        """Return the same problems on the same points of another dtype, at these solutions."""
        return replace(
            self,
            points=points,
            sample_weights=self.sample_weights.astype(points.dtype),
            weights=self.weights.astype(points.dtype),
            bias=self.bias.astype(points.dtype),
        )

    def logits(self) -> NDArray[Any]:
        """Return the logits of all points, of shape (n_points, n_problems)."""
        logits: NDArray[Any] = self.points @ self.weights + self.bias
        return logits

    def solve(
        self, C: NDArray[Any], *, tolerance: float, which: NDArray[np.intp] | None = None
    ) -> int:
        """Solve all problems, in place.

        Parameters
        ----------
        C : ndarray of float, shape (n_problems,)
            Inverse strength of each penalty.
        tolerance : float
            Largest norm of the gradient, relative to the norm of the weights. The relative error
            of the weights is at most that, since no curvature of the loss is below 1.
        which : ndarray of intp, optional
            The problems to solve; by default all.

        Returns
        -------
        int
            The number of steps of the problem that needed most, `MAX_STEPS` where one did not
            converge.
        """
        open_ = np.arange(self.targets.shape[1]) if which is None else which
        C = np.asarray(C, self.points.dtype)
        squares = np.einsum("ij,ij->j", self.points, self.points)
        logits = self.logits()
        for step in range(MAX_STEPS):
            part = _Part(self, open_, C[open_], logits[:, open_])
            size = np.sqrt(np.square(self.weights[:, open_]).sum(axis=0) + 1e-30)
            gradient, slope = part.gradient()
            norm = np.sqrt(np.square(gradient).sum(axis=0) + np.square(slope))
            is_open = norm > tolerance * size
            if not is_open.any():
                return step
            if not is_open.all():
                open_ = open_[is_open]
                part = _Part(self, open_, C[open_], logits[:, open_])
                gradient, slope, norm, size = (
                    each[..., is_open] for each in (gradient, slope, norm, size)
                )
            forcing = np.minimum(0.25, np.sqrt(norm / size))
            direction, change = part.newton_step(gradient, slope, squares, forcing * norm)
            moved = self.points @ direction + change
            length = part.step_length(direction, moved, gradient, slope, change)
            self.weights[:, open_] += length * direction
            self.bias[open_] += length * change
            logits[:, open_] += length * moved
            open_ = open_[length > 0]  # others are at the end of the precision of their dtype
            if not len(open_):
                return step + 1
        return MAX_STEPS


class _Part:
    """Some of the problems, at their current weights."""

    def __init__(
        self, problems: Problems, which: NDArray[np.intp], C: NDArray[Any], logits: NDArray[Any]
    ) -> None:
        self._points = problems.points
        self._weights = problems.weights[:, which]
        self._targets = problems.targets[:, which]
        self._strengths = C * problems.sample_weights[:, which]
        self._logits = logits
        probabilities = expit(logits)
        self._errors = self._strengths * (probabilities - self._targets)
        self._curvature = self._strengths * probabilities * (1 - probabilities)

    def gradient(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the gradients of the weights and of the biases."""
        return self._points.T @ self._errors + self._weights, self._errors.sum(axis=0)

    def newton_step(
        self,
        gradient: NDArray[Any],
        slope: NDArray[Any],
        squares: NDArray[Any],
        tolerance: NDArray[Any],
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Solve for the steps by conjugate gradients, until residuals are within `tolerance`."""
        tiny = np.finfo(gradient.dtype).tiny
        mean_curvature = self._curvature.mean(axis=0)
        scale = 1 + mean_curvature * squares[:, np.newaxis]
        scale_bias = self._curvature.sum(axis=0) + tiny
        x, x_bias = np.zeros_like(gradient), np.zeros_like(slope)
        r, r_bias = -gradient, -slope
        z, z_bias = r / scale, r_bias / scale_bias
        p, p_bias = z.copy(), z_bias.copy()
        product = (r * z).sum(axis=0) + r_bias * z_bias
        for _ in range(MAX_INNER):
            curved = self._curvature * (self._points @ p + p_bias)
            q, q_bias = self._points.T @ curved + p, curved.sum(axis=0)
            along = (p * q).sum(axis=0) + p_bias * q_bias
            step = np.divide(product, along, out=np.zeros_like(product), where=along > tiny)
            x += step * p
            x_bias += step * p_bias
            r -= step * q
            r_bias -= step * q_bias
            norm = np.sqrt(np.square(r).sum(axis=0) + np.square(r_bias))
            if (norm <= tolerance).all():
                break
            z, z_bias = r / scale, r_bias / scale_bias
            following = (r * z).sum(axis=0) + r_bias * z_bias
            # What has converged rests: its residual would only gather rounding.
            goes_on = (norm > tolerance) & (product > tiny)
            ratio = np.divide(following, product, out=np.zeros_like(product), where=goes_on)
            product = np.where(goes_on, following, 0)
            p, p_bias = z + ratio * p, z_bias + ratio * p_bias
        return x, x_bias

    def step_length(
        self,
        direction: NDArray[Any],
        moved: NDArray[Any],
        gradient: NDArray[Any],
        slope: NDArray[Any],
        change: NDArray[Any],
    ) -> NDArray[Any]:
        """Return the largest of 1, ½, ¼ … by which each loss decreases; 0 where none does."""
        promised = (gradient * direction).sum(axis=0) + slope * change
        along = (self._weights * direction).sum(axis=0, dtype=np.float64)
        square = np.square(direction).sum(axis=0, dtype=np.float64)
        before = self._loss(self._logits)
        length = np.ones(len(change), self._points.dtype)
        size = before + np.square(self._weights).sum(axis=0, dtype=np.float64) / 2
        # A smaller decrease is lost in the rounding of the logits.
        waiting = promised < -np.finfo(promised.dtype).eps * size
        length[~waiting] = 0
        for _ in range(MAX_HALVINGS):
            loss = self._loss(self._logits + length * moved)
            penalty = length * along + length.astype(np.float64) ** 2 * square / 2
            waiting &= loss - before + penalty > SUFFICIENT * length * promised
            if not waiting.any():
                break
            length[waiting] /= 2
        length[waiting] = 0
        return length

    def _loss(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        signed = np.where(self._targets, -logits, logits)
        losses = self._strengths * np.logaddexp(0, signed)
        total: NDArray[np.float64] = losses.sum(axis=0, dtype=np.float64)
        return total
