"""The `flargo` command line.

Commands write data to stdout and messages to stderr. Exit codes: 0 success, 1 a problem was found, 2 wrong usage.
"""
