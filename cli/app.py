"""The typer application and the one place where errors become a sentence, a hint and an exit status."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from .. import __version__
from .bench import bench
from .bisect import bisect
from .cache import cache
from .compile import compile_model
from .doctor import doctor
from .explain import explain as explain_precision
from .export import export
from .inspect import inspect
from .output import print_error, print_json
from .passes import passes
from .report import report
from .run import run_model
from .targets import targets
from .verify import verify

EXIT_FAILURE, EXIT_MISUSE, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="planish",
    help="Turn a PyTorch model into one file that runs without PyTorch.",
    epilog="Start with: planish compile FILE.py:callable -o model.planish",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"planish {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn a PyTorch model into one file that runs without PyTorch."""


_COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    ("compile", compile_model),
    ("run", run_model),
    ("inspect", inspect),
    ("export", export),
    ("bench", bench),
    ("verify", verify),
    ("explain", explain_precision),
    ("report", report),
    ("bisect", bisect),
    ("passes", passes),
    ("targets", targets),
    ("doctor", doctor),
    ("cache", cache),
)
for _name, _function in _COMMANDS:
    app.command(_name, short_help=(_function.__doc__ or "").partition("\n")[0])(_function)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see ``planish.cli.main``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if not arguments:
        arguments = ["--help"]
    debug, machine = "--debug" in options, "--json" in options
    try:
        status = app(arguments, standalone_mode=False, prog_name="planish")
        sys.stdout.flush()
        if status == EXIT_INTERRUPTED:  # typer has caught Ctrl-C itself
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        # The reader of a pipe has gone (planish ... | head): nobody is left to tell. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print_error("interrupted")
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILURE
    except Exception as error:
        if type(error).__name__ == "Abort":  # how some versions of click pass Ctrl-C on
            print_error("interrupted")
            return EXIT_INTERRUPTED
        kind, message, hint, status = explain(error)
        if debug:
            traceback.print_exc()
        if machine:
            print_json({"error": {"kind": kind, "message": message, "hint": hint, "exit": status}})
        else:
            print_error(message, hint)
        return status


def explain(error: BaseException) -> tuple[str, str, str | None, int]:
    """Kind, sentence, hint and exit status of an error, whoever raised it."""
    kind = type(error).__name__
    message: Any = getattr(error, "message", None)
    if hasattr(error, "hint") and isinstance(
        message, str
    ):  # an error of planish, from the compiler or from the runtime
        return kind, message, error.hint, int(getattr(error, "exit_code", EXIT_FAILURE))
    if hasattr(error, "format_message"):  # a usage error found by the option parser; typer may bring a click of its own
        text = error.format_message().strip()
        first, _, rest = text.partition("\n")
        first, near = _suggestion(first)
        rest = f"did you mean {near}?" if near else rest
        hint = rest.strip() or "planish COMMAND --help lists what there is"
        return "UsageError", first.rstrip("."), hint, int(getattr(error, "exit_code", EXIT_MISUSE))
    if isinstance(error, OSError):
        where = f" {error.filename!r}" if error.filename else ""
        reasons = {
            errno.ENOSPC: f"the disk is full: nothing was written to{where or ' it'}",
            errno.EROFS: f"{where.strip() or 'the folder'} is on a read-only file system",
            errno.EACCES: f"no permission to open{where or ' it'}",
            errno.ENOENT: f"there is no file{where}",
        }
        return kind, reasons.get(error.errno or 0, f"{error.strerror or error}{where}"), None, EXIT_FAILURE
    if isinstance(error, MemoryError):
        return kind, "there is not enough memory", None, EXIT_FAILURE
    where = _innermost(error)
    return kind, f"internal error in {where}: {kind}: {error}", "run it again with --debug and report it", EXIT_FAILURE


_SUGGESTIONS = re.compile(r"\s*\(?(?:Did you mean|Possible options?:)\s*(.+?)\??\)?$")


def _suggestion(text: str) -> tuple[str, str | None]:
    """A message of the option parser without the names it proposes, and the nearest of those."""
    found = _SUGGESTIONS.search(text)
    if found is None:
        return text, None
    before = text[: found.start()].rstrip(" .")
    names = [name.strip(" '") for name in re.split(r",| or ", found.group(1)) if name.strip()]
    given = before.split()[-1].strip("'")
    return before, (difflib.get_close_matches(given, names, 1, 0.0) or names)[0]


def _innermost(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "planish"
