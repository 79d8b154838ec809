"""The fault matrix, written once: the tests of both engines import it."""
