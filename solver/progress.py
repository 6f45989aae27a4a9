"""A bar for a running fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class Bar:
    """Shows each step: where the fit is, the objective relative to the energy, and a note.

    ``total`` is how many steps fill it; ``None`` where that is not known.
    """

    def __init__(self, energy: float, total: int | None = None) -> None:
        with _needing_rich():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        self.energy, self.total = energy, total
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"), TimeElapsedColumn()
        )
        self.task = self.progress.add_task("seeding", total=total, status="")

    def update(self, place: str, objective: float, note: str, completed: int | None = None) -> None:
        """After a step."""
        error = objective / self.energy if self.energy > 0 else 0.0
        self.progress.update(self.task, completed=completed, description=place, status=f"error {error:.5f}, {note}")

    def finish(self) -> None:
        """The bar full."""
        total = self.total or 1
        self.progress.update(self.task, total=total, completed=total, description="done")


def waiting(text: str, progress: bool) -> AbstractContextManager[object]:
    """A line on the screen for as long as something takes, if progress is to be shown."""
    if not progress:
        return nullcontext()
    with _needing_rich():
        from rich.console import Console
        from rich.markup import escape
    return Console(highlight=False).status(escape(text))


@contextmanager
def shown(bar: Bar | None) -> Iterator[None]:
    """The bar on screen, taken off it however the fit ends."""
    if bar is None:
        yield
        return
    with bar.progress:
        yield


@contextmanager
def _needing_rich() -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise ImportError('progress=True needs rich: pip install "ksubspaces[cli]"') from None
