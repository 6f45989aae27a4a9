"""The table at the end of a run."""

from collections import Counter

from contract.backends import BACKENDS
from contract.conftest import table


def test_counts_stand_under_their_backends():
    counts = Counter(
        {("assign", "card", " skipped"): 2, ("assign", "streamed", ""): 3, ("assign", "streamed", " FAILED"): 1}
    )
    counts["largest", "simulated", ""] = 4
    head, first, second = table(counts)
    assert len({len(head), len(first), len(second)}) == 1

    def cells(line):
        ends = [head.index(backend.name) + len(backend.name) for backend in BACKENDS]
        starts = [len("largest"), *ends[:-1]]
        return {b.name: line[a:e].strip() for b, a, e in zip(BACKENDS, starts, ends, strict=True)}

    assert cells(first) == {b.name: "-" for b in BACKENDS} | {"card": "2 skipped", "streamed": "3, 1 FAILED"}
    assert cells(second) == {b.name: "-" for b in BACKENDS} | {"simulated": "4"}
