"""Benchmarks of ksubspaces against its peers; `python -m bench` is the way in."""

COMPARISONS = ("minilm", "compress", "layers", "models", "linears", "small", "optima")
"""Suites on the processor, modules of suites/; all but the last two take the MiniLM table."""
