"""A federation of one machine that runs a job through flargo while one looks: ``flargo demo``.

Without a cluster it runs against the embedded engine (flargo.embedded). Only the command line imports this package.
"""
