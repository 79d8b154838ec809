"""The test cluster: built from package registries, and run in one sandbox of Linux namespaces. See README.md."""
