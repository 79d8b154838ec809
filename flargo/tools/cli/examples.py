"""The examples in each command's --help. A test parses them with the commands' own parsers."""

EXAMPLES = {
    "demo": ("flargo demo", "flargo demo --sites 3 --rounds 5", "flargo demo --job my-job --keep results"),
    "doctor": (
        "flargo doctor --namespace flare",
        "flargo doctor --kit site-1 --job my-job",
        "flargo doctor --kit site-1 -o json",
    ),
    "prepare": (
        "flargo prepare site-1 --dry-run",
        "flargo prepare site-1 --namespace flare --argo keep_success=3600",
        "flargo prepare server --max-jobs 4",
        "flargo prepare site-1 --undo",
    ),
    "render": ("flargo render my-job", "flargo render my-job/meta.json --kit site-1", "flargo render my-job -o json"),
    "jobs": (
        "flargo jobs",
        "flargo jobs --site site-1 --watch",
        "flargo jobs -A -o wide",
        "flargo jobs -l flargo.dev/study=heart -o json",
    ),
    "why": ("flargo why 6cd202f5", "flargo why 6cd202f5 --site site-1 -o yaml"),
    "logs": (
        "flargo logs 6cd202f5",
        "flargo logs 6cd202f5 -f --tail 20",
        "flargo logs 6cd202f5 --site site-1 --since 10m",
    ),
    "terminate": ("flargo terminate 6cd202f5", "flargo terminate 6cd202f5 --site site-1"),
    "completion": ("flargo completion bash", "flargo completion zsh", "flargo completion fish"),
    "sweep": ("flargo sweep --dry-run", "flargo sweep --older-than 30d --site site-1"),
}
"""Command lines by command."""


def epilog(command: str) -> str:
    """Return the examples of a command as the end of its help. click wraps none of its lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in EXAMPLES[command])
