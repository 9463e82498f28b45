"""From a preset's optimizer section to an optimizer; nothing in that section is ignored."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tuner.config.explain import suggestion
from tuner.config.schema import OptimizerSection, TrainingSection
from tuner.errors import ConfigError
from tuner.training.bf16 import Bf16Optimizer, Factory, Groups, mixes_parameters

__all__ = ["NAMED", "Group", "Optimizer", "build", "evaluating", "set_factor"]

WHERE = "training.optimizer"
LOWEST_PRODIGY_RATE = 0.01
"""Prodigy multiplies the rate it finds with the learning rate: the 1e-4 of other optimizers would stop it."""


@dataclass(frozen=True)
class Group:
    """Parameters with a learning rate of their own."""

    name: str
    parameters: Sequence[nn.Parameter]
    learning_rate: float
    """0 freezes: the group is left out."""


@dataclass(frozen=True)
class Named:
    """A class with a short name, and the options in which we differ from its own defaults."""

    path: str
    options: Mapping[str, Any] = field(default_factory=dict)


NAMED = {
    "adamw": Named("torch.optim.AdamW", {"fused": True}),
    "adamw8bit": Named("bitsandbytes.optim.AdamW8bit"),
    # The rate is ours to set: without these it follows the step number or the weights' size.
    "adafactor": Named(
        "transformers.optimization.Adafactor",
        {"relative_step": False, "scale_parameter": False, "warmup_init": False},
    ),
    "lion": Named("bitsandbytes.optim.Lion"),
    # What its authors advise for diffusion models.
    "prodigy": Named("prodigyopt.Prodigy", {"use_bias_correction": True, "safeguard_warmup": True}),
    "schedule_free_adamw": Named("schedulefree.AdamWScheduleFree"),
}


def build(groups: Sequence[Group], section: TrainingSection) -> Optimizer:
    """The optimizer of a run; groups with a learning rate of 0 are left out.

    Each of its ``param_groups`` has ``lr``, ``initial_lr`` and ``name``. bfloat16 parameters are stepped in
    float32 and rounded as ``section.bf16_update`` says. Raises ``ConfigError`` for a class that cannot be used
    and for every option that it does not take.
    """
    name = section.optimizer.name
    live = [group for group in groups if group.learning_rate > 0 and group.parameters]
    if not live:
        raise ConfigError("nothing is left to train", hint="raise one of training.learning_rates above 0")
    optimizer_class = find_class(name)
    options = options_of(optimizer_class, section.optimizer)
    if "prodigyopt" in optimizer_class.__module__:
        _check_prodigy(live)
    make = _factory(optimizer_class, options, section)
    device = live[0].parameters[0].device
    if "bitsandbytes" in optimizer_class.__module__:
        _check_kernel(make, name, device)
    param_groups: Groups = [
        {"params": list(group.parameters), "lr": rate, "initial_lr": rate, "name": group.name}
        for group in live
        for rate in [group.learning_rate]
    ]
    if not any(parameter.dtype == torch.bfloat16 for group in live for parameter in group.parameters):
        optimizer = make(param_groups)
    elif mixes_parameters(make, device):
        raise ConfigError(
            f"{WHERE}.name: {name} looks at all weights together, but bfloat16 weights are stepped one at a time",
            hint="set memory.dtype to fp32, train an adapter, or use adamw",
        )
    else:
        optimizer = Bf16Optimizer(param_groups, make, section.bf16_update, section.seed)
    if section.ema is not None and _averages(optimizer):
        raise ConfigError(f"training.ema: {name} averages the weights itself", hint="remove training.ema, or use adamw")
    return optimizer


def set_factor(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` times what it started with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


@contextlib.contextmanager
def evaluating(optimizer: Optimizer) -> Iterator[None]:
    """Inside, the parameters are what was learned; afterwards they are bit for bit what they were.

    Only schedule-free optimizers make a difference: they train at other points than the average they learn
    (Defazio et al. 2024, arXiv:2405.15682). Takes as much memory again as the parameters.
    """
    if not _averages(optimizer):
        yield
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [parameter.detach().clone() for parameter in parameters]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, value in zip(parameters, trained, strict=True):
                parameter.copy_(value)


def find_class(name: str) -> type[Optimizer]:
    """The class behind a short name or a dotted one. Raises ``ConfigError`` unless it is an ``Optimizer``.

    A preset may come from a stranger, and importing a module runs it: so only packages that someone installed
    on this machine are imported, never a file that lies about, and only sub-classes of torch's ``Optimizer``
    are ever called.
    """
    path = NAMED[name].path if name in NAMED else name
    module_name, _, class_name = path.rpartition(".")
    package = module_name.partition(".")[0]
    names = ", ".join(NAMED)
    if not module_name:
        raise ConfigError(
            f"{WHERE}.name: there is no optimizer {name!r}{suggestion(name, list(NAMED))}",
            hint=f"use {names}, or the full name of a class, like torch.optim.RAdam",
        )
    if name not in NAMED and package not in importlib.metadata.packages_distributions():
        raise ConfigError(
            f"{WHERE}.name: {name} needs the package {package}, which is not installed",
            hint=f"install the package you trust to have it, or use {names}",
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        hint = f"pip install {package}" if name in NAMED else f"use {names}"
        raise ConfigError(f"{WHERE}.name: cannot import {module_name}: {error}", hint=hint) from error
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise ConfigError(f"{WHERE}.name: {path} is not an optimizer of torch", hint=f"use {names}")
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(f"{WHERE}.name: {path} evaluates the loss several times per step", hint=f"use {names}")
    return found


def options_of(optimizer_class: type[Optimizer], section: OptimizerSection) -> dict[str, Any]:
    """Keywords for ``optimizer_class``: our defaults, then the section's fields, then its ``args``.

    Raises ``ConfigError`` for what the class does not take.
    """
    takes = _keywords(optimizer_class)
    named = NAMED.get(section.name)
    options: dict[str, Any] = {"foreach": False} if "foreach" in takes else {}
    options |= named.options if named else {}
    for key in ("betas", "eps"):
        value = getattr(section, key)
        if value is None:
            continue
        if key not in takes or key in section.args:
            reason = "is given twice" if key in takes else f"{section.name} has no {key}"
            raise ConfigError(f"{WHERE}.{key}: {reason}", hint=f"remove {WHERE}.{key}")
        options[key] = _fitted(f"{WHERE}.{key}", value, takes[key].default)
    if "weight_decay" in takes:
        options["weight_decay"] = section.weight_decay
    elif section.weight_decay not in (0.0, OptimizerSection.model_fields["weight_decay"].default):
        raise ConfigError(f"{WHERE}.weight_decay: {section.name} has none", hint=f"remove {WHERE}.weight_decay")
    free = [key for key in takes if key not in ("lr", "weight_decay")]
    for key in section.args:
        if key not in free:
            raise ConfigError(
                f"{WHERE}.args.{key}: {section.name} takes no such option here{suggestion(key, free)}",
                hint=f"it takes: {', '.join(free)}",
            )
    return options | section.args


def _keywords(optimizer_class: type[Optimizer]) -> dict[str, inspect.Parameter]:
    """The constructor's parameters but the first, which are the weights."""
    parameters = list(inspect.signature(optimizer_class).parameters.values())[1:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name: parameter for parameter in parameters if parameter.kind in named}


def _fitted(where: str, value: Any, default: Any) -> Any:
    """``value`` in the shape of the class's own default."""
    if not isinstance(default, tuple | list):
        return value
    if not isinstance(value, tuple):  # Adafactor's two eps: ours is the first
        return (value, *default[1:])
    if len(value) != len(default):
        raise ConfigError(f"{where}: this optimizer takes {len(default)} numbers, not {len(value)}")
    return value


def _factory(optimizer_class: type[Optimizer], options: Mapping[str, Any], section: TrainingSection) -> Factory:
    name, takes = section.optimizer.name, _keywords(optimizer_class)
    if "lr" not in takes:
        raise ConfigError(f"{WHERE}.name: {name} has no learning rate to set", hint=f"use {', '.join(NAMED)}")

    def make(param_groups: Groups) -> Optimizer:
        try:
            # Prodigy prints, and stdout is for data.
            with contextlib.redirect_stdout(io.StringIO()):
                made = optimizer_class(param_groups, lr=section.learning_rate, **options)  # type: ignore[call-arg]
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{WHERE}: {name} cannot be made: {error}", hint=f"{WHERE}.args takes: {', '.join(takes)}"
            ) from error
        if hasattr(made, "train"):
            made.train()
        return made

    return make


def _check_prodigy(groups: Sequence[Group]) -> None:
    rates = {group.learning_rate for group in groups}
    if min(rates) < LOWEST_PRODIGY_RATE:
        raise ConfigError(
            f"training.learning_rate: {min(rates):g} would stop prodigy, which multiplies it with the rate it finds",
            hint="--set training.learning_rate=1",
        )
    if len(rates) > 1:
        raise ConfigError(
            "training.learning_rates: prodigy finds one rate for everything", hint="remove training.learning_rates"
        )


def _check_kernel(make: Factory, name: str, device: torch.device) -> None:
    """One step of a small tensor: bitsandbytes lacks kernels on some devices, and says so only then."""
    weight = nn.Parameter(torch.zeros(4096, device=device))
    weight.grad = torch.ones_like(weight)
    try:
        make([{"params": [weight]}]).step()
    except (NotImplementedError, RuntimeError) as error:
        raise ConfigError(
            f"{WHERE}.name: bitsandbytes has no {name} for {device.type} here: {error}",
            hint="update bitsandbytes, or use adamw",
        ) from error


def _averages(optimizer: Optimizer) -> bool:
    """Whether the parameters differ from what was learned while training (schedule-free)."""
    return optimizer.averages if isinstance(optimizer, Bf16Optimizer) else hasattr(optimizer, "eval")
