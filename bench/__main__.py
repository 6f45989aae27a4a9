"""`python -m bench`: every measurement of this folder, by its name.

Nothing but the standard library is imported before the name is known: `rented` installs the package.
"""

from __future__ import annotations

import importlib
import sys

from . import COMPARISONS

COMMANDS = {
    "rented": ("rented.command", "on a card that is rented for minutes: tests, rows, sanitizers"),
    "gpu": ("suites.gpu", "rows on a card, by name"),
    "sanitize": ("suites.sanitize", "each operation under a tool of compute-sanitizer"),
    "host": ("suites.host", "the host's share of a step on a card; takes no card"),
    "downstream": ("downstream.command", "MiniLM fine-tuned for sentiment, its table compressed in eight ways"),
    "token-weights": ("suites.token_weights", "which token weights keep an encoder's sentence vectors best"),
    "digits": ("examples.digits", "an example: digits by subspace, beside k-means, with a picture"),
    "photograph": ("examples.photograph", "an example: noise off a photograph by local subspaces, beside PCA"),
    "bytes": ("suites.bytes", "bytes against what a table is used for: three tables, every peer"),
    "show": ("lib.show", "the table of a results file"),
    "curves": ("suites.optima", "least error against seconds, of a results file of the suite optima"),
    "side": ("lib.sides", "one side of a comparison of the suite scale"),
    "limited": ("lib.limited", "a fit of a file of gigabytes in a process that may have a quarter of that"),
    "memory": ("lib.memory", "peak memory of one fit"),
    "whole-model": ("lib.whole_model", "seconds and peak memory of compressing a model's folder"),
    "vocabulary": ("lib.vocabulary", "a model of 250,000 tokens through the command line"),
}
"""Everything else: its module, whose `main` takes the arguments, and what it is."""


def main(arguments: list[str]) -> int:
    """Hand the arguments to what their first one names."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if "--gpu" in arguments:
        arguments = ["rented", "--figures", *(argument for argument in arguments if argument != "--gpu")]
    if arguments[:1] == ["--only"]:
        arguments = arguments[1:]
    name = next(iter(arguments), "")
    if name in COMMANDS:
        module, arguments = COMMANDS[name][0], arguments[1:]
    elif name in COMPARISONS or name[:1] in ("", "-"):
        module = "suites.comparisons"
    else:
        print(f"there is no suite {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    return importlib.import_module(f"{__package__}.{module}").main(arguments) or 0


def usage() -> str:
    """What can be named."""
    lines = [
        "python -m bench [SUITE ...] [--quick] [--out FILE]",
        f"    suites, default all: {', '.join(COMPARISONS)}",
        "python -m bench --gpu       the rows on a card, all of them, within minutes",
        *(f"python -m bench {name:<14}{what}" for name, (_, what) in COMMANDS.items()),
        "each takes --help",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
