"""Keeps the libraries' own progress bars and remarks off the terminal: the run says what a person needs."""

from __future__ import annotations

import logging

LIBRARIES = ("diffusers", "transformers", "peft", "accelerate", "bitsandbytes", "torchao")


def quiet_libraries() -> None:
    """Errors only, and no progress bars but ours. The proof listens to the loggers on its own."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
