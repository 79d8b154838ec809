"""The test cluster: built from package registries, run in one sandbox of Linux namespaces."""
