"""Sinks that show a run to a person or to another program."""
