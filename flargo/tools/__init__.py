"""The tools for people: the commands, the doctor, the demo, and the preparation of startup kits."""
