"""Self-supervised learning in pure torch: no Ray, no MLflow."""

from vicreg_workers.selfsup.loss.vicreg import (
    VICRegLoss,
    VICRegTerms,
    covariance,
    invariance,
    variance,
)

__all__ = ["VICRegLoss", "VICRegTerms", "covariance", "invariance", "variance"]
