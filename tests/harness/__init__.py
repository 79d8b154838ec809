"""What tests are made of: clusters, parents, faults, oracles and recordings. See README.md."""
