"""Benchmarks: flargo and the stock launcher, measured in one run. They assert nothing."""
