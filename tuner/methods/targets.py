"""Which layers a method is attached to. All methods share this matcher, so that they agree on what a name means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import nn

from tuner.catalog.spec import ComponentSpec
from tuner.config.schema import MethodSection
from tuner.errors import ConfigError
from tuner.methods.base import is_matrix


def resolve(module: nn.Module, section: MethodSection, component: ComponentSpec) -> list[str]:
    """Names of the layers of ``module`` to adapt, in the order of the network.

    ``method.targets`` holds endings (``to_q``, ``attn.to_out.0``) or regular expressions for the whole name;
    ``default`` takes the component's own, which are regular expressions. Raises ``ConfigError`` for a pattern
    that is no regular expression, and when nothing matches.
    """
    available = _layers(module)
    default = section.targets == "default"
    patterns = component.lora_targets if default else list(section.targets)
    compiled = [(pattern, _compile(pattern)) for pattern in patterns]
    chosen = [name for name in available if any(_matches(*entry, name, endings=not default) for entry in compiled)]
    if not chosen:
        raise ConfigError(
            f"method.targets: no layer of {type(module).__name__} matches {patterns}", hint=_near(patterns, available)
        )
    return chosen


def require_used(modules: Sequence[nn.Module], section: MethodSection) -> None:
    """Raise ``ConfigError`` when an entry of ``targets`` or ``rank_pattern`` matches no layer of any module."""
    available = [name for module in modules for name in _layers(module)]
    given = [] if section.targets == "default" else list(section.targets)
    for pattern in given:
        compiled = _compile(pattern)
        if not any(_matches(pattern, compiled, name, endings=True) for name in available):
            raise ConfigError(f"method.targets: no layer matches {pattern!r}", hint=_near([pattern], available))
    for pattern in section.rank_pattern:
        compiled = _compile(pattern, "rank_pattern")
        if not any(compiled.search(name) for name in available):
            raise ConfigError(f"method.rank_pattern: no layer matches {pattern!r}", hint=_near([pattern], available))


def _layers(module: nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if is_matrix(layer)]


def _matches(pattern: str, compiled: re.Pattern[str], name: str, *, endings: bool) -> bool:
    if compiled.fullmatch(name):
        return True
    return endings and (name == pattern or name.endswith(f".{pattern}"))


def ranks(names: list[str], section: MethodSection) -> dict[str, int]:
    """The rank of each layer; the first entry of ``method.rank_pattern`` found in a name wins.

    Raises ``ConfigError`` for an entry that is no regular expression.
    """
    patterns = [(_compile(pattern, "rank_pattern"), rank) for pattern, rank in section.rank_pattern.items()]
    return {name: next((rank for pattern, rank in patterns if pattern.search(name)), section.rank) for name in names}


def _compile(pattern: str, option: str = "targets") -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"method.{option}: {pattern!r} is neither a layer's name nor a regular expression: {error}",
            hint=r"dots and stars are special in regular expressions; write \. for a dot",
        ) from error


def _near(patterns: list[str], available: list[str]) -> str:
    """The layers that may have been meant: close endings, or a few kinds of layers there are."""
    endings: dict[str, None] = {}
    for name in available:
        words = name.split(".")
        for length in (1, 2, 3):
            ending = ".".join(words[-length:])
            if not ending.isdigit():
                endings.setdefault(ending)
    close = [match for pattern in patterns for match in difflib.get_close_matches(pattern, endings, n=3, cutoff=0.5)]
    kinds = [ending for ending in endings if "." not in ending]
    return f"layers there are: {', '.join(dict.fromkeys(close or kinds[:12]))}"
