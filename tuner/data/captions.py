"""Captions: read from beside their sample, and completed as the preset says. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from tuner.config.schema import CaptionSection
from tuner.errors import DatasetError


class BadCaption(DatasetError):
    """A caption that is missing, empty or not text; ``code`` tells which."""

    def __init__(self, code: str, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.code = code
        self.path = path
        self.reason = reason


def caption_path(sample: Path, section: CaptionSection) -> Path:
    """The file beside ``sample`` that holds its caption."""
    extension = section.extension if section.extension.startswith(".") else f".{section.extension}"
    return sample.with_name(sample.stem + extension)


def caption_of(sample: Path, section: CaptionSection) -> str:
    """The finished caption of ``sample``. Raises ``BadCaption``."""
    return completed(_text(sample, section), section)


def completed(text: str, section: CaptionSection) -> str:
    """``text`` between prefix and suffix, with the trigger word in front unless it is in there as a word."""
    if section.prefix:
        text = _spaced(section.prefix, text)
    if section.suffix:
        text = text + section.suffix if re.match(r"[\s,.;:!?)]", section.suffix) else _spaced(text, section.suffix)
    text = text.strip()
    trigger = section.trigger
    if trigger and not re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text):
        text = f"{trigger}, {text}" if text else trigger
    return text


def _spaced(left: str, right: str) -> str:
    return left + right if not left or left[-1].isspace() or right[:1].isspace() else f"{left} {right}"


def _text(sample: Path, section: CaptionSection) -> str:
    path = caption_path(sample, section)
    text = _read(path)
    if text:
        return text
    if section.missing == "error":
        if text is None:
            raise BadCaption("missing-caption", sample, f"it has no caption {path.name}")
        raise BadCaption("empty-caption", sample, f"its caption {path.name} is empty")
    return sample.stem.replace("_", " ") if section.missing == "filename" else ""


def _read(path: Path) -> str | None:
    """The caption without a byte order mark and surrounding space; None when there is no such file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise BadCaption("caption-encoding", path, f"it is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise BadCaption("caption-unreadable", path, f"it cannot be read ({error.strerror})") from error
    if "\0" in text:  # UTF-16 without a mark passes for UTF-8, apart from its zeros
        raise BadCaption("caption-encoding", path, "it is not UTF-8 text (zero bytes)")
    return text.replace("\r\n", "\n").strip()
