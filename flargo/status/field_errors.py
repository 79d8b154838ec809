"""The values that Kubernetes quotes when it refuses an object, taken out of its words.

The API server's validation says ``spec.tolerations[0].operator: Invalid value: "...": must be ...``, and Argo passes
that on. Such a value can be of a site's pod template, which a job's researcher must not read.

Source: ErrorBody in pkg/util/validation/field/errors.go of k8s.io/apimachinery. Of the kinds of errors that there are,
these four print a value: a text as Go quotes it, a number or flag, anything else as JSON or, where that fails, as Go
writes it.
"""

import re
from typing import Final

HIDDEN_VALUE: Final = "(value not shown)"
_BEFORE_VALUE = re.compile(r": (?:Invalid value|Unsupported value|Duplicate value|Not found): ")
_TEXT = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
_SIMPLE = re.compile(rf"{_TEXT}|[-+]?[0-9][0-9A-Za-z.+-]*+|(?:true|false|null|\+Inf|-Inf|NaN|<nil>)\b", re.DOTALL)
_COMPOSITE = re.compile(r"[{\[]|[&*]?[A-Za-z_][\w.*]{0,200}(?:\[[\w.*]{0,200}\][\w.*]{0,200})?\{")
"""How a list or mapping begins in JSON, and in Go: ``core.Toleration{``, ``[]string{``, ``map[string]string{``."""
_TOKEN = re.compile(rf"{_TEXT}|`[^`]*+(?:`|\Z)|[{{\[]|[}}\]]", re.DOTALL)


def hide_values(text: str) -> str:
    """The text with each value that a field's error quotes replaced. Takes time in proportion to its length."""
    parts: list[str] = []
    at = 0
    while (found := _BEFORE_VALUE.search(text, at)) is not None:
        end = _end_of_value(text, found.end())
        parts.append(text[at : found.end()])
        if end > found.end():
            parts.append(HIDDEN_VALUE)
        at = end
    return "".join([*parts, text[at:]])


def _end_of_value(text: str, begin: int) -> int:
    """Where a value ends; where it begins, if there is none."""
    simple = _SIMPLE.match(text, begin)
    if simple is not None:
        return simple.end()
    if _COMPOSITE.match(text, begin) is None:
        return begin
    depth = 0
    for token in _TOKEN.finditer(text, begin):
        if token[0] in {"{", "["}:
            depth += 1
        elif token[0] in {"}", "]"}:
            depth -= 1
            # Go writes the type before the value: the brackets of ``[]string{"a"}`` close twice.
            if depth == 0 and _COMPOSITE.match(text, token.end()) is None:
                return token.end()
    return len(text)
