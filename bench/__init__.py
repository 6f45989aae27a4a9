"""Benchmarks of ksubspaces against its peers; `python -m bench` is the way in."""

COMPARISONS = ("minilm", "compress", "layers", "models", "small", "optima", "scale", "metric")
"""Suites on the processor, modules of suites/; all but the last four take the MiniLM table."""
