"""What tuner's loop adds to a training step, against the barest loop with the same network, inputs and optimizer.

    python -m benchmarks.loop_overhead [--steps 30] [--rounds 7] [flux] [sdxl]

Both loops train LoRA layers of the same tiny network (random weights, wide enough that a step takes some tenths
of a second) on the CPU. The bare loop holds its inputs ready, calls the network directly and emits nothing. Rounds
alternate; the ratio of the medians is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.subjects import SUBJECTS, prepared_session
from tuner.training.session import Session

Step = Callable[[], None]


def bare_flux(session: Session) -> Step:
    """One step of a hand-written Flux loop: pack, call, mean squared error, clip, step."""
    from diffusers import FluxPipeline

    loop, batch, denoiser = _batch(session)
    x0 = batch.latents["image"]
    size, channels, height, width = x0.shape
    ids = FluxPipeline._prepare_latent_image_ids(size, height // 2, width // 2, x0.device, x0.dtype)
    text = batch.cond.tensors["prompt_embeds"]
    text_ids = torch.zeros(text.shape[1], 3)
    guidance = torch.full((size,), 1.0) if denoiser.config.guidance_embeds else None

    def packed(latents: torch.Tensor) -> torch.Tensor:
        return FluxPipeline._pack_latents(latents, size, channels, height, width)

    def step() -> None:
        noise, level = torch.randn_like(x0), torch.sigmoid(torch.randn(size))
        x_t = torch.lerp(x0, noise, level[:, None, None, None])
        prediction = denoiser(
            hidden_states=packed(x_t),
            timestep=level,
            guidance=guidance,
            pooled_projections=batch.cond.tensors["pooled_prompt_embeds"],
            encoder_hidden_states=text,
            txt_ids=text_ids,
            img_ids=ids,
            return_dict=False,
        )[0]
        _learn(loop, torch.nn.functional.mse_loss(prediction, packed(noise - x0)))

    return step


def bare_sdxl(session: Session) -> Step:
    """One step of a hand-written SDXL loop."""
    from diffusers import DDPMScheduler

    loop, batch, denoiser = _batch(session)
    x0 = batch.latents["image"]
    tensors = batch.cond.tensors
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    added = {"text_embeds": tensors["pooled_prompt_embeds"], "time_ids": tensors["time_ids"]}

    def step() -> None:
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (x0.shape[0],))
        x_t = scheduler.add_noise(x0, noise, t)
        prediction = denoiser(x_t, t, tensors["prompt_embeds"], added_cond_kwargs=added, return_dict=False)[0]
        _learn(loop, torch.nn.functional.mse_loss(prediction, noise))

    return step


def _batch(session: Session):  # noqa: ANN202 - three values of the session's own types
    loop = session.loop
    items = loop.batches.batch(0)
    batch = loop.math.batch(items, [item.sample.caption for item in items])
    return loop, batch, next(iter(session.networks.denoisers.values()))


def _learn(loop, loss: torch.Tensor) -> None:  # noqa: ANN001
    loss.backward()
    parameters = [p for group in loop.optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    loop.optimizer.step()
    loop.optimizer.zero_grad(set_to_none=True)


BARE = {"flux": bare_flux, "sdxl": bare_sdxl}


def measure(name: str, steps: int, rounds: int, folder: Path) -> None:
    """Alternate rounds of both loops and print the ratio of their medians."""
    session = prepared_session(name, folder, steps=10_000)
    bare = BARE[name](session)
    times: dict[str, list[float]] = {"tuner": [], "bare": []}
    for round_number in range(rounds + 1):
        started = time.perf_counter()
        session.loop.run(session.loop.step + steps, lambda step: None)
        middle = time.perf_counter()
        for _ in range(steps):
            bare()
        if round_number:  # the first round warms up
            times["tuner"].append((middle - started) / steps)
            times["bare"].append((time.perf_counter() - middle) / steps)
    tuner_s, bare_s = (statistics.median(times[key]) for key in ("tuner", "bare"))
    print(f"{name:6} tuner {tuner_s * 1e3:8.2f} ms   bare {bare_s * 1e3:8.2f} ms   ratio {tuner_s / bare_s:.3f}")


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SUBJECTS, []], default=[])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TUNER_CACHE"] = str(Path(folder) / "cache")
        for name in arguments.names or list(SUBJECTS):
            measure(name, arguments.steps, arguments.rounds, Path(folder))


if __name__ == "__main__":
    main()
