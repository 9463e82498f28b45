"""tuner's engine: everything a fine-tuning run does, without a screen."""

__version__ = "0.1.0"
