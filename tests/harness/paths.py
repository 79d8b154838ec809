"""The paths of the checkout's own files."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder that has ``pyproject.toml``."""
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
RECORDINGS = ROOT / "tests" / "recordings"
RECORDED_SCENARIOS = sorted(RECORDINGS.glob("*/*.jsonl"))
"""The recordings' files, one for each version of Argo and scenario."""
