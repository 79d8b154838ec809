"""The test harness: clusters, FLARE parents, faults, oracles and recordings. README.md describes its modules."""
