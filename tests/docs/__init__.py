"""Generate the docs' tables and pictures from the code, and test that the tables are up to date."""
