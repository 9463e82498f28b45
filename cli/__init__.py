"""The command line: turns arguments into calls of the engine, and its events into text."""
