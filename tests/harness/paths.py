"""Where the checkout's own files are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder of ``pyproject.toml``."""
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
RECORDINGS = ROOT / "tests" / "recordings"
RECORDED_SCENARIOS = sorted(RECORDINGS.glob("*/*.jsonl"))
"""The recordings' files, one for each version of Argo and scenario."""
