"""Implements `flargo demo`: runs a FLARE federation on this machine, and one job of it through flargo.

Without a cluster, the job runs on the embedded engine (flargo.embedded). Only the command line imports this package.
"""
