"""Means and covariances of two groups of features, accumulated over batches in one pass."""

import torch
from torch import Tensor


class JointMoments:
    """Covariances within blocks of `block` neighbouring features X, of X with Y, and of Y; all in float64.

    Sums are centred on the mean of the first batch. Without that, E[xy] - E[x] E[y] would cancel for features whose
    mean is large compared with their deviation, which some hidden dimensions are.
    """

    def __init__(self, block: int = 1) -> None:
        self.block = block
        self.count = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add the vectors `x` [vectors, features of X] and `y` [vectors, features of Y], paired by row."""
        if self.count == 0:
            self._begin(x, y)
        x, y = x.float() - self._x_origin, y.float() - self._y_origin
        blocks = x.reshape(len(x), -1, self.block)
        self.count += len(x)
        self._x += x.sum(0, dtype=torch.float64)
        self._y += y.sum(0, dtype=torch.float64)
        # Within a batch float32 is precise enough and twice as fast.
        self._xx += torch.einsum("nbi,nbj->bij", blocks, blocks)
        self._xy += x.T @ y
        self._yy += y.T @ y

    @property
    def x_mean(self) -> Tensor:
        """Return the mean of X, [features of X]."""
        return self._x_origin + self._x / self.count

    @property
    def y_mean(self) -> Tensor:
        """Return the mean of Y, [features of Y]."""
        return self._y_origin + self._y / self.count

    @property
    def xx(self) -> Tensor:
        """Return the covariance within each block of X, [blocks, block, block]."""
        mean = (self._x / self.count).view(-1, self.block)
        covariance: Tensor = self._xx / self.count - mean[:, :, None] * mean[:, None, :]
        return covariance

    @property
    def xy(self) -> Tensor:
        """Return the covariance of X with Y, [features of X, features of Y]."""
        return self._xy / self.count - torch.outer(self._x, self._y) / self.count**2

    @property
    def yy(self) -> Tensor:
        """Return the covariance of Y, [features of Y, features of Y]."""
        return self._yy / self.count - torch.outer(self._y, self._y) / self.count**2

    def _begin(self, x: Tensor, y: Tensor) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=x.device)

        width, blocks = x.shape[-1], x.shape[-1] // self.block
        self._x_origin, self._y_origin = x.float().mean(0), y.float().mean(0)
        self._x, self._y = zeros(width), zeros(y.shape[-1])
        self._xx, self._xy = zeros(blocks, self.block, self.block), zeros(width, y.shape[-1])
        self._yy = zeros(y.shape[-1], y.shape[-1])
