"""The contact sheet: every preview prompt with its pictures from the first step to the last."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL_PX = 160
GAP_PX = 12
LINE_PX = 15
INK, PAPER, FAINT = "#202124", "#ffffff", "#6b7280"


@dataclass(frozen=True)
class Shot:
    """One preview picture."""

    prompt: str
    step: int
    path: Path


def contact_sheet(shots: Sequence[Shot], title: str) -> Image.Image:
    """Lay ``shots`` out: one block per prompt, pictures in step order, two blocks beside each other."""
    prompts = list(dict.fromkeys(shot.prompt for shot in shots))
    steps = _shown_steps(sorted({shot.step for shot in shots}))
    by_place = {(shot.prompt, shot.step): shot.path for shot in shots}
    block_width = len(steps) * (CELL_PX + GAP_PX)
    across = 2 if len(prompts) > 1 and block_width <= 600 else 1
    block_height = LINE_PX * 3 + CELL_PX + GAP_PX
    down = -(-len(prompts) // across)
    size = (across * (block_width + GAP_PX) + GAP_PX, down * block_height + 3 * LINE_PX)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP_PX, LINE_PX // 2), title, fill=INK, font=ImageFont.load_default(size=14))
    for index, prompt in enumerate(prompts):
        left = GAP_PX + (index % across) * (block_width + GAP_PX)
        top = 2 * LINE_PX + (index // across) * block_height
        _draw_block(sheet, draw, (left, top), prompt, {step: by_place.get((prompt, step)) for step in steps})
    return sheet


def _draw_block(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    prompt: str,
    pictures: dict[int, Path | None],
) -> None:
    left, top = corner
    font = ImageFont.load_default(size=11)
    columns = max(20, len(pictures) * (CELL_PX + GAP_PX) // 6)
    lines = textwrap.wrap(prompt, columns)[:2] or ["(empty prompt)"]
    for line_number, line in enumerate(lines):
        draw.text((left, top + line_number * LINE_PX), line, fill=INK, font=font)
    top += 2 * LINE_PX
    last = max(pictures)
    for column, (step, path) in enumerate(pictures.items()):
        x = left + column * (CELL_PX + GAP_PX)
        label = "before" if step == 0 else f"step {step}" + (" (after)" if step == last else "")
        draw.text((x, top), label, fill=FAINT, font=font)
        if path is not None and path.exists():
            with Image.open(path) as picture:
                sheet.paste(_fitted(picture.convert("RGB")), (x, top + LINE_PX))


def _fitted(picture: Image.Image) -> Image.Image:
    scale = CELL_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Small pictures are enlarged without blur: a person should see the pixels the model drew.
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _shown_steps(steps: list[int], most: int = 6) -> list[int]:
    """All steps, or an even choice of them that keeps the first and the last."""
    if len(steps) <= most:
        return steps
    return [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]
