"""Diffusion over whole timesteps of a noise schedule: networks that answer epsilon or v."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tuner.catalog.spec import NoiseSchedule, ObjectiveSpec, Prediction, ShiftSpec
from tuner.config.schema import ObjectiveSection
from tuner.errors import ConfigError
from tuner.families.base import Latents
from tuner.objectives import weights
from tuner.objectives.base import Noised, Objective, broadcast

TINY = 1e-9
"""Slack for products like 0.69 * 1100, which is just below 759."""


class DiffusionObjective(Objective):
    """x_t = sqrt(A_t) x0 + sqrt(1 - A_t) noise (Ho et al. 2020, arXiv:2006.11239).

    Targets are the noise, or v = sqrt(A_t) noise - sqrt(1 - A_t) x0 (Salimans and Ho 2022, arXiv:2202.00512).
    Timestep k of T stands for the fractions of full noise from k / T to (k + 1) / T.
    """

    def __init__(self, spec: ObjectiveSpec, section: ObjectiveSection, prediction: Prediction) -> None:
        # Shifts are a matter of flow models, and a preset that asks for one is refused below.
        super().__init__(section.timesteps, spec.sampling, ShiftSpec())
        self.prediction = prediction
        if section.timesteps.shift not in ("auto", 1.0):
            raise ConfigError(
                f"objective.timesteps.shift: only flow models have a shift, this is an {prediction} model",
                hint="shape objective.timesteps.sampling instead, or leave shift on 'auto'",
            )
        schedule = spec.schedule
        self.num_timesteps = schedule.num_timesteps
        rescaled = zero_terminal_snr(section, schedule, prediction)
        self.alphas_cumprod = alphas_cumprod(schedule, zero_terminal=rescaled)
        """(T,) float32: share of the signal's variance in x_t."""
        snr = self.alphas_cumprod.double() / (1.0 - self.alphas_cumprod.double())
        self.weights = weights.table(section.weighting, snr, prediction, section.snr_gamma)
        """(T,) float32: factor of the loss by timestep."""

    def levels(self, u: Tensor, tokens: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """See ``Objective``: whole timesteps from 0 to T - 1, as float32."""
        first = math.floor(max(self.low, low) * self.num_timesteps + TINY)
        last = math.ceil(min(self.high, high) * self.num_timesteps - TINY) - 1
        fractions = self._fractions(u, tokens, low, high)
        return (fractions * self.num_timesteps + TINY).floor().clamp(first, max(first, last)).float()

    def fraction(self, t: float) -> float:
        """See ``Objective``: the middle of the timestep's part."""
        return (t + 0.5) / self.num_timesteps

    def noised(self, latents: Latents, noise: Latents, t: Tensor) -> Noised:
        """See ``Objective``."""
        if self.alphas_cumprod.device != t.device:
            self.alphas_cumprod = self.alphas_cumprod.to(t.device)
            self.weights = self.weights.to(t.device)
        step = t.long()
        share = self.alphas_cumprod[step]
        x_t, target = {}, {}
        for name, clean in latents.items():
            x0, x1 = clean.float(), noise[name].float()
            signal, spread = broadcast(share.sqrt(), clean), broadcast((1 - share).sqrt(), clean)
            x_t[name] = signal * x0 + spread * x1
            target[name] = x1 if self.prediction == "epsilon" else signal * x1 - spread * x0
        return Noised(x_t, t.float(), target, self.weights[step])


def zero_terminal_snr(section: ObjectiveSection, schedule: NoiseSchedule, prediction: Prediction) -> bool:
    """Whether the schedule is rescaled; ``auto`` is the model's own for v_prediction, and never for epsilon.

    At zero signal the noise is x_t itself, so a network that answers epsilon has nothing to learn there.
    """
    if section.zero_terminal_snr == "auto":
        return schedule.zero_terminal_snr and prediction == "v_prediction"
    if section.zero_terminal_snr and prediction != "v_prediction":
        raise ConfigError(
            "objective.zero_terminal_snr: only v_prediction can be trained on pure noise",
            hint="set objective.prediction to 'v_prediction', or objective.zero_terminal_snr to false",
        )
    return section.zero_terminal_snr


def alphas_cumprod(schedule: NoiseSchedule, *, zero_terminal: bool) -> Tensor:
    """Share of signal variance by timestep (T,), float32, as diffusers' ``DDPMScheduler`` computes it."""
    start, end, count = schedule.beta_start, schedule.beta_end, schedule.num_timesteps
    if schedule.kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    else:
        betas = torch.linspace(start, end, count, dtype=torch.float32)
    shares = torch.cumprod(1.0 - betas, dim=0)
    return rescaled_to_zero(shares) if zero_terminal else shares


def rescaled_to_zero(shares: Tensor) -> Tensor:
    """The schedule ``shares`` (T,) moved and stretched so that it keeps its first value and ends at zero.

    Lin et al. 2023, arXiv:2305.08891, algorithm 1.
    """
    roots = shares.sqrt()
    roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    return roots**2
