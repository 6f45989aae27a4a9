"""Benchmarks of ksubspaces against its peers; `python -m bench` is the way in."""

OF_MINILM = ("minilm", "compress", "layers", "models")
"""Suites on the processor, modules of suites/, that take the MiniLM table."""
COMPARISONS = (*OF_MINILM, "small", "optima", "scale", "metric")
"""These, and those with data of their own."""
