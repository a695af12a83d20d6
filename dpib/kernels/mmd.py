"""Maximum mean discrepancy between a released mean embedding and generated images (Gretton et al. 2012)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dpib.kernels.features import Rows


def squared_mmd(means: Tensor, rows: Rows, labels: Tensor) -> Tensor:
    """Return the squared MMD per class, unbiased in the generated images, summed over classes present.

    The plain estimate ||mean_j phi(x_j) - mu||^2 counts every generated image as its own neighbour. It
    under-weights the repulsion between images by the share 1/b of a class of b images in the batch, and
    the generator collapses towards each class's mode (at b = 10, MNIST accuracy falls from 73 to 50 %).
    Leaving the diagonal out (U-statistic) removes that bias; it holds the squared norms of the rows.

    Args:
        means: mu, float [classes, D].
        rows: phi of the generated images.
        labels: their classes, int64 [batch]; each class present at least twice.
    """
    classes = labels.unique()
    assign = F.one_hot(labels, len(means)).T[classes].to(means)
    b = assign.sum(1)
    means = means if len(classes) == len(means) else means[classes]  # they are large, and a copy takes time
    met, squares = rows.against(assign, means)
    attraction = met / b
    repulsion = (squares - assign @ rows.norms().square().to(assign)) / (b * (b - 1))
    own: Tensor = torch.linalg.vector_norm(means, dim=1).square()
    return (repulsion - 2 * attraction + own).sum()
