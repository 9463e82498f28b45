"""Weights by signal-to-noise ratio (SNR) for networks that answer epsilon or v.

A loss on x0 with weight w is a loss on epsilon with weight w / SNR, and on v with w / (SNR + 1): the
published weights are written for one of the three and converted here. All are finite where the SNR is 0.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tuner.catalog.spec import Prediction

Weighting = Literal["none", "min_snr", "soft_min_snr", "debiased"]

LARGEST_SNR = 1000.0
"""Cap of the debiased weight, as published with it."""
SMALLEST_SNR = 1e-6
"""Floor of the debiased weight for epsilon, which grows without bound towards pure noise."""


def table(weighting: Weighting, snr: Tensor, prediction: Prediction, gamma: float) -> Tensor:
    """Factors of the loss for ratios ``snr`` (T,) >= 0; (T,) float32."""
    if weighting == "none":
        return torch.ones_like(snr, dtype=torch.float32)
    if weighting == "min_snr":
        factors = min_snr(snr, prediction, gamma)
    elif weighting == "soft_min_snr":
        factors = soft_min_snr(snr, prediction, gamma)
    else:
        factors = debiased(snr, prediction)
    return factors.float()


def min_snr(snr: Tensor, prediction: Prediction, gamma: float) -> Tensor:
    """min(SNR, gamma) on x0 (Hang et al. 2023, arXiv:2303.09556): over SNR for epsilon, over SNR + 1 for v."""
    if prediction == "epsilon":
        return (gamma / snr).clamp(max=1.0)
    return snr.clamp(max=gamma) / (snr + 1.0)


def soft_min_snr(snr: Tensor, prediction: Prediction, gamma: float) -> Tensor:
    """SNR gamma / (SNR + gamma) on x0, which is 1 / (sigma^2 + 1 / gamma) (Crowson et al. 2024, arXiv:2401.11605)."""
    if prediction == "epsilon":
        return gamma / (snr + gamma)
    return snr * gamma / ((snr + gamma) * (snr + 1.0))


def debiased(snr: Tensor, prediction: Prediction) -> Tensor:
    """1 / sqrt(SNR) on epsilon (Yu et al. 2023, arXiv:2310.08442), which is sqrt(SNR) / (SNR + 1) on v."""
    if prediction == "epsilon":
        return snr.clamp(SMALLEST_SNR, LARGEST_SNR).rsqrt()
    capped = snr.clamp(max=LARGEST_SNR)
    return capped.sqrt() / (capped + 1.0)
