"""Benchmarks of ksubspaces against its peers; `python -m bench` is the way in."""

COMPARISONS = ("minilm", "compress", "layers", "models", "linears", "small")
"""Suites on the processor, modules of suites/; all but the last take the MiniLM table."""
