"""Jobs as people see them on a cluster: listed, explained, their logs read, ended, and their leftovers swept."""
