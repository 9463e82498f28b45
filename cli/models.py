"""`tuner models`: what there is to train."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cli.render.columns import columns


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List the models that can be trained."""
    from tuner.catalog import registry

    rows = [summary(entry) for entry in registry.listing()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    header = ["MODEL", "KIND", "SIZE", "METHODS", "LICENCE", "TITLE"]
    typer.echo(columns([header, *(_row(row) for row in rows)]))


def summary(entry: dict[str, Any]) -> dict[str, Any]:
    """What a list of models tells about one of them."""
    download = entry.get("download")
    return {
        "id": entry["id"],
        "title": entry["title"],
        "family": entry["family"],
        "modality": entry.get("modality", "image"),
        "params": entry["params"],
        "licence": entry["licence"],
        "methods": entry["methods"],
        "references": entry.get("references", 0),
        "resolution_px": entry["resolution_px"],
        "frames": entry.get("frames", 1),
        "repo": download["repo"] if download else None,
        "download_gib": download.get("size_gib") if download else 0,
        "gated": bool(download and download.get("gated", False)),
        "source": entry["source"],
    }


def _row(row: dict[str, Any]) -> list[str]:
    licence = row["licence"] + (" (gated)" if row["gated"] else "")
    return [row["id"], row["modality"], _params(row["params"]), ",".join(row["methods"]), licence, row["title"]]


def _params(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e8 else f"{count / 1e6:.1f}M"
