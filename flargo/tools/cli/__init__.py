"""Commands for people.

Data goes to stdout, messages to stderr; exit codes: 0 fine, 1 a problem found, 2 wrong usage.
"""
