"""What the docs have from the code: tables, pictures, and the test that they are up to date."""
