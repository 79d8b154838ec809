"""Clients of the Kubernetes API and of an Argo Server: the only code in flargo that sends them requests."""
