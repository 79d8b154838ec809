"""Measure the cost of untrusted text: seconds per megabyte for texts that make quadratic code slow, at two sizes each.

Where the work is linear, both sizes take the same time per megabyte. Run ``make hostile``; it needs no cluster.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping

from flargo.cluster.bodies import log_pieces
from flargo.flare.redact import REDACTION, Redaction, StreamRedaction
from flargo.job import names
from flargo.job.trust import JOB_META, JOB_SPEC
from flargo.job.validate import InvalidInput
from flargo.terms import SecretData
from flargo.text import inert
from flargo.tools.jobs.log_lines import ExecutorLineFilter, Line

SIZES = (1_000_000, 4_000_000)
"""Lengths of the texts, in characters."""
Work = Callable[[str], object]


def filter_line(text: str) -> None:
    """Filter the executor's lines from a log of one long line."""
    ExecutorLineFilter().filter(Line("", text))


def filter_short_lines(text: str) -> None:
    """Filter lines that are as long as the filter reads (8 KiB), each ending as JSON does."""
    executor_filter = ExecutorLineFilter()
    for at in range(0, len(text), 8192):
        executor_filter.filter(Line("", f"{text[at : at + 8191]}}}"))


def split_chunks(text: str) -> None:
    """Split a stream that arrives in chunks of a kilobyte into lines."""
    content = text.encode(errors="surrogatepass")
    chunks: Iterator[bytes] = (content[at : at + 1024] for at in range(0, len(content), 1024))
    for _ in log_pieces(chunks):
        pass


def redact_lines(text: str) -> None:
    """Redact a log line by line."""
    stream = StreamRedaction(REDACTION)
    for line in text.split("\n"):
        stream.redact(line)


def redaction_with_secrets(number: int) -> Redaction:
    """Return a redaction of so many secrets, all of which have the same prefix."""
    redaction = Redaction()
    redaction.learn(SecretData("all", {str(at): f"eyJhbGci{at:028}".encode() for at in range(number)}), public="")
    return redaction


def validate_job(text: str) -> None:
    """Validate a job's metadata in which each string is this text."""
    for trusted in (JOB_META, JOB_SPEC):
        for key, row in trusted.items():
            try:
                row.validate(key, text)
            except InvalidInput as error:
                str(error)
    names.display_text(JOB_META["name"].validate("name", text))


SHAPES: Mapping[str, str] = {
    "letters": "x",
    "JSON of the executor": '{"argo":true,"level":',
    "words of the executor": "time=x level=y msg=argo=true ",
    "braces": '{"a":',
    "keys begin": "-----BEGIN PRIVATE KEY-----\n",
    "keys end": "-----END PRIVATE KEY-----\n",
    "base64": f"{'A' * 63}\n",
    "tokens, almost": "eyJa.eyJb.",
    "a secret's beginning": "eyJhbGci",
    "escapes": "\x1b[2J",
    "bidi": "\u202e",
    "many scripts": "é東🧠م",
    "spaces": " ",
    "marks in a wrong order": "\u0301\u0316",
    "line ends": "\n",
    "tabs": "\t",
}
WORKS: Mapping[str, tuple[Work, tuple[str, ...]]] = {
    "log filter": (filter_line, ("letters", "JSON of the executor", "words of the executor", "braces")),
    "log filter, 8 KiB lines": (filter_short_lines, ("JSON of the executor", "words of the executor", "braces")),
    "line splitting": (split_chunks, ("letters", "line ends", "many scripts")),
    "redaction": (REDACTION.redact, ("letters", "keys begin", "keys end", "base64", "tokens, almost", "escapes")),
    "redaction, 5,000 secrets": (
        redaction_with_secrets(5000).redact,
        ("letters", "a secret's beginning", "many scripts"),
    ),
    "redaction by lines": (redact_lines, ("letters", "keys begin", "keys end", "base64", "line ends")),
    "inert": (inert, ("letters", "escapes", "bidi", "many scripts", "tabs", "line ends")),
    "display text": (names.display_text, ("letters", "spaces", "bidi", "braces")),
    "label value": (names.label_value, ("letters", "many scripts", "marks in a wrong order")),
    "launch": (validate_job, ("letters", "spaces", "bidi", "marks in a wrong order")),
}


def measure(work: Work, text: str) -> float:
    """Return the seconds that the work takes."""
    gc.collect()
    start = time.perf_counter()
    work(text)
    return time.perf_counter() - start


def main() -> None:
    """Print a line for each kind of work and each shape of text."""
    print(f"{'':26} {'':24} " + " ".join(f"{size / 1e6:.0f} MB: s/MB" for size in SIZES))
    for name, (work, shapes) in WORKS.items():
        for shape in shapes:
            part = SHAPES[shape]
            costs = [measure(work, part * (size // len(part))) / (size / 1e6) for size in SIZES]
            print(f"{name:26} {shape:24} " + " ".join(f"{cost:10.4f}" for cost in costs), flush=True)


if __name__ == "__main__":
    main()
