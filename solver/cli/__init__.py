"""The command line. Each command is a module with ``add``, its stanza of the parser, and the function behind it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .._version import __version__
from . import compress, curve, demo, fit, warmup

__all__ = ["main"]

_COMMANDS = (fit, compress, curve, demo, warmup)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        0; 2 after an error the user can do something about, told in one line on stderr; 130 after Ctrl-C.
    """
    options = _parser().parse_args(argv)
    try:
        options.command(options)
    except KeyboardInterrupt:
        sys.stderr.write("\nksubspaces: interrupted, nothing more was written\n")
        return 130
    except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
        if options.debug:
            raise
        sys.stderr.write(f"ksubspaces: {str(error) or type(error).__name__}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ksubspaces", description="Fit k subspaces through the rows of a table, and factor it to a smaller size."
    )
    parser.add_argument("--version", action="version", version=f"ksubspaces {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser
