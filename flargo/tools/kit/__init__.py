"""A site's startup kit: what flargo changes in it, and how that is taken back. Files in, changes out; no disk."""
