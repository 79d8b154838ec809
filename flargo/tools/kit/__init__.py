"""Changes to a site's startup kit: what `flargo prepare` does to it, and how --undo takes that back.

Every function takes the kit's files as bytes and returns changes; flargo.tools.cli.kit_disk reads and writes them.
"""
