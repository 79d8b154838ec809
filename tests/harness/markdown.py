"""What a reader sees of Markdown that the Argo UI renders, and whether anything in it is active.

The UI renders with react-markdown and remark-gfm, after ``escapeInvalidMarkdown`` (ui/src/workflows/utils.ts). Here
markdown-it parses the text by the same rules: CommonMark with GitHub's tables and strikethrough. GitHub's rule that
turns bare addresses into links is checked by hand.
"""

import re

from markdown_it import MarkdownIt

_PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
_ADDRESS = re.compile(r"www\.|https?:|ftp:|mailto:|xmpp:|[\w.+-]@", re.IGNORECASE)
"""What begins a bare address, which becomes a link outside of a code span."""
_ESCAPES = (
    (re.compile(r"^([-*])\s(.*)", re.MULTILINE), r"\\\1 \2"),
    (re.compile(r"^(\d)\.\s(.*)", re.MULTILINE), r"\1\\. \2"),
    (re.compile(r"(-#)\s"), ""),
    (re.compile(r"\n"), " "),
    (re.compile(r"`{3}"), ""),
    (re.compile(r"^#+"), ""),
    (re.compile(r"^>+"), ""),
)
"""The replacements of ``escapeInvalidMarkdown`` in Argo 3.7.18."""


def shown_text(markdown: str) -> str:
    """Return the text that a reader sees of one line of Markdown.

    Raises:
        AssertionError: the text has more than one line, or anything but plain text and code spans, also after the
            replacements of the Argo UI.
    """
    assert markdown.isprintable(), "one line, without control characters"
    text = _parse(markdown)
    escaped = markdown
    for pattern, replacement in _ESCAPES:
        escaped = pattern.sub(replacement, escaped)
    _parse(escaped)
    return text


def _parse(markdown: str) -> str:
    begin, line, end = _PARSER.parse(markdown)
    assert (begin.type, line.type, end.type) == ("paragraph_open", "inline", "paragraph_close")
    parts = line.children or []
    assert {part.type for part in parts} <= {"text", "code_inline"}
    assert not any(_ADDRESS.search(part.content) for part in parts if part.type == "text")
    return "".join(part.content for part in parts)
