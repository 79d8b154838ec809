"""Benchmarks: figures beside the stock launcher's, in one run. None of them is an assertion."""
