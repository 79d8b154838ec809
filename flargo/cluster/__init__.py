"""Transport to the Kubernetes API and nothing else."""
