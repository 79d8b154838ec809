"""What foreign text costs: seconds for a megabyte of shapes that make careless code slow, at two sizes each.

Where the work is linear, both sizes take the same time for a megabyte. ``make hostile``; needs no cluster.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping

from flargo.cluster.api import _pieces
from flargo.flare.redact import REDACTION, Redaction, StreamRedaction
from flargo.job import names
from flargo.job.trust import JOB_META, JOB_SPEC
from flargo.job.validate import InvalidInput
from flargo.terms import SecretData
from flargo.text import inert
from flargo.tools.jobs.log_lines import ExecutorLineFilter, Line

SIZES = (1_000_000, 4_000_000)
"""Characters."""
Work = Callable[[str], object]


def of_log(text: str) -> None:
    """The filter of the executor's lines, on one line."""
    ExecutorLineFilter().filter(Line("", text))


def of_short_lines(text: str) -> None:
    """The filter of the executor's lines, on lines that are as long as it looks at; each ends as JSON does."""
    sieve = ExecutorLineFilter()
    for at in range(0, len(text), 8192):
        sieve.filter(Line("", f"{text[at : at + 8191]}}}"))


def of_chunks(text: str) -> None:
    """The splitting of a stream into lines, in chunks of a kilobyte."""
    content = text.encode(errors="surrogatepass")
    chunks: Iterator[bytes] = (content[at : at + 1024] for at in range(0, len(content), 1024))
    for _ in _pieces(chunks):
        pass


def of_lines(text: str) -> None:
    """The redaction of a log, line by line."""
    stream = StreamRedaction(REDACTION)
    for line in text.split("\n"):
        stream.redact(line)


def knowing(number: int) -> Redaction:
    """Redaction that knows so many secrets, all of which begin alike."""
    redaction = Redaction()
    redaction.learn(SecretData("all", {str(at): f"eyJhbGci{at:028}".encode() for at in range(number)}), public="")
    return redaction


def of_launch(text: str) -> None:
    """A job's metadata at its launch, each string of which is this text."""
    for trusted in (JOB_META, JOB_SPEC):
        for key, row in trusted.items():
            try:
                row.validate(key, text)
            except InvalidInput as refused:
                str(refused)
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
    "log filter": (of_log, ("letters", "JSON of the executor", "words of the executor", "braces")),
    "log filter, 8 KiB lines": (of_short_lines, ("JSON of the executor", "words of the executor", "braces")),
    "line splitting": (of_chunks, ("letters", "line ends", "many scripts")),
    "redaction": (REDACTION.redact, ("letters", "keys begin", "keys end", "base64", "tokens, almost", "escapes")),
    "redaction, 5,000 secrets": (knowing(5000).redact, ("letters", "a secret's beginning", "many scripts")),
    "redaction by lines": (of_lines, ("letters", "keys begin", "keys end", "base64", "line ends")),
    "inert": (inert, ("letters", "escapes", "bidi", "many scripts", "tabs", "line ends")),
    "shown": (names.display_text, ("letters", "spaces", "bidi", "braces")),
    "label value": (names.label_value, ("letters", "many scripts", "marks in a wrong order")),
    "launch": (of_launch, ("letters", "spaces", "bidi", "marks in a wrong order")),
}


def seconds(work: Work, text: str) -> float:
    """How long it takes."""
    gc.collect()
    begun = time.perf_counter()
    work(text)
    return time.perf_counter() - begun


def main() -> None:
    """Print a line for each kind of work and shape."""
    print(f"{'':26} {'':24} " + " ".join(f"{size / 1e6:.0f} MB: s/MB" for size in SIZES))
    for name, (work, shapes) in WORKS.items():
        for shape in shapes:
            part = SHAPES[shape]
            taken = [seconds(work, part * (size // len(part))) / (size / 1e6) for size in SIZES]
            print(f"{name:26} {shape:24} " + " ".join(f"{each:10.4f}" for each in taken), flush=True)


if __name__ == "__main__":
    main()
