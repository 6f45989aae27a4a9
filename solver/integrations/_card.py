"""The model card of a compressed model: what was done, what it takes now, and how to open it."""

from __future__ import annotations

import re
from pathlib import Path

from ..storage import Facts, write_whole

CARD = "README.md"
_BEGIN, _END = "<!-- ksubspaces: this part is written anew whenever the model is saved -->", "<!-- ksubspaces: end -->"
_LIBRARIES = {"transformers": "transformers", "sentence_transformers": "sentence-transformers"}


def write_card(folder: Path, facts: Facts) -> None:
    """Write the card of a folder, or the part of it that is about the compression, below what people wrote."""
    path = folder / CARD
    own = f"{_BEGIN}\n{_describe(facts)}{_END}\n"
    given = path.read_text(encoding="utf-8") if path.exists() else ""
    around = re.sub(f"{_BEGIN}.*?{_END}\n?", "", given, flags=re.DOTALL).strip()
    if not around or re.fullmatch(r"---\nlibrary_name: \S+\ntags:\n- ksubspaces\n---", around):
        around = f"---\nlibrary_name: {_LIBRARIES[facts['library']]}\ntags:\n- ksubspaces\n---"
    write_whole(path, f"{around}\n\n{own}".encode())


def _describe(facts: Facts) -> str:
    report = facts["report"]
    sizes = "" if report is None else (
        f" It takes {report['nbytes'] / 1e6:,.1f} MB instead of {report['nbytes_before'] / 1e6:,.1f} MB, and has "
        f"{report['n_parameters']:,} parameters instead of {report['n_parameters_before']:,}."
    )  # fmt: skip
    return f"""
## Compressed with ksubspaces

In this {facts["class"]}, tables are stored as coefficients in a few low-dimensional subspaces.{sizes}

{_table(facts)}

To open it, `pip install "ksubspaces[transformers]"`, then:

```python
{_example(facts)}
```

`ksubspaces.integrations.transformers.load_compressed(path)` opens it as well, and checks every file first.
"""


def _table(facts: Facts) -> str:
    if facts["report"] is None:
        lines = ["| table | shape | as |", "|---|---|---|"]
        for name, entry in facts["modules"].items():
            if "tied_to" not in entry:
                form = f"{len(entry['dims'])} clusters" if "dims" in entry else "packed bits"
                lines.append(f"| `{name}` | {' x '.join(map(str, entry['shape']))} | {form} |")
        return "\n".join(lines)
    lines = [
        "| table | shape | parameters | relative squared error | of the SVD with as many | weights of rows |",
        "|---|---|---|---|---|---|",
    ]
    for m in facts["report"]["modules"]:
        error, svd = m["relative_error"], m["svd_relative_error"]
        if m["weighted_error"] is not None:
            error, svd = m["weighted_error"], m["svd_weighted_error"]
        names = " = ".join(f"`{name}`" for name in [m["name"], *m["tied"]])
        lines.append(
            f"| {names} | {' x '.join(map(str, m['shape']))} | {m['n_parameters_before']:,} -> {m['n_parameters']:,} "
            f"| {error:.4f} | {svd:.4f} | {m['weights']} |"
        )
    return "\n".join(lines)


def _example(facts: Facts) -> str:
    kind = facts["class"]
    first = "import ksubspaces.integrations.transformers  # which tells transformers of factored layers"
    call = f'{kind}("PATH")' if facts["library"] == "sentence_transformers" else f'{kind}.from_pretrained("PATH")'
    return f"{first}\nfrom {facts['library']} import {kind}\n\nmodel = {call}"
