"""The `tuner` command. Only here do errors become text and exit codes."""

from __future__ import annotations

import sys

import typer

from cli import models, presets, run
from cli.crash import Crash
from tuner import __version__
from tuner.errors import ExitCode, TunerError

app = typer.Typer(
    name="tuner",
    help="Fine-tune open diffusion models: one preset, one command, a file that is proven to load.",
    # Plain help is drawn in a third of the time, and can be piped.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("models")(models.models)
app.command("schema")(presets.schema)
app.add_typer(presets.app, name="presets")


@app.callback(invoke_without_command=True)
def bare(context: typer.Context) -> None:
    """Show what there is when no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.PRESET)


@app.command("version")
def version() -> None:
    """Print tuner's version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line and exit with the code that fits what happened."""
    crash = Crash()
    try:
        app(obj=crash)
    except TunerError as error:
        say_error(error)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001  the last line of defence: a bug becomes one line and a file
        crash.report(error)
        sys.exit(ExitCode.UNEXPECTED)


def say_error(error: TunerError) -> None:
    """What happened, and the next thing to type, on stderr."""
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


if __name__ == "__main__":
    main()
