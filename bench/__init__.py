"""Benchmarks of ksubspaces against its peers; `python -m bench` is the way in."""

COMPARISONS = ("minilm", "compress", "layers", "models", "small", "optima", "scale")
"""Suites on the processor, modules of suites/; all but the last three take the MiniLM table."""
