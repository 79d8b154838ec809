"""Implements `flargo doctor`: gathers facts about a site's cluster, then runs checks on them, before a job fails."""
