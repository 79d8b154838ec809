"""Removal of the values that Kubernetes quotes in the message with which it refuses an object.

The API server's validation says ``spec.tolerations[0].operator: Invalid value: "...": must be ...``, and Argo passes
that on. Such a value can come from a site's pod template, which the job's researcher must not read.

Source: ErrorBody in pkg/util/validation/field/errors.go of k8s.io/apimachinery. Four kinds of errors print a value: a
string as Go quotes it, a number or boolean, anything else as JSON or, if that fails, in Go's syntax.
"""

import re
from typing import Final

HIDDEN_VALUE: Final = "(value not shown)"
_VALUE_PREFIX = re.compile(r": (?:Invalid value|Unsupported value|Duplicate value|Not found): ")
_STRING = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
_SCALAR = re.compile(rf"{_STRING}|[-+]?[0-9][0-9A-Za-z.+-]*+|(?:true|false|null|\+Inf|-Inf|NaN|<nil>)\b", re.DOTALL)
_COMPOSITE = re.compile(r"[{\[]|[&*]?[A-Za-z_][\w.*]{0,200}(?:\[[\w.*]{0,200}\][\w.*]{0,200})?\{")
"""Beginning of a list or mapping in JSON or Go: ``core.Toleration{``, ``[]string{``, ``map[string]string{``."""
_TOKEN = re.compile(rf"{_STRING}|`[^`]*+(?:`|\Z)|[{{\[]|[}}\]]", re.DOTALL)


def hide_values(text: str) -> str:
    """Return the text with each value that a field error quotes replaced by HIDDEN_VALUE, in linear time."""
    parts: list[str] = []
    position = 0
    while (prefix := _VALUE_PREFIX.search(text, position)) is not None:
        end = _end_of_value(text, prefix.end())
        parts.append(text[position : prefix.end()])
        if end > prefix.end():
            parts.append(HIDDEN_VALUE)
        position = end
    return "".join([*parts, text[position:]])


def _end_of_value(text: str, begin: int) -> int:
    """Return the position after the value that begins at a position, or that position if no value begins there."""
    scalar = _SCALAR.match(text, begin)
    if scalar is not None:
        return scalar.end()
    if _COMPOSITE.match(text, begin) is None:
        return begin
    depth = 0
    for token in _TOKEN.finditer(text, begin):
        if token[0] in {"{", "["}:
            depth += 1
        elif token[0] in {"}", "]"}:
            depth -= 1
            # Go writes the type before the value, so ``[]string{"a"}`` closes a bracket twice.
            if depth == 0 and _COMPOSITE.match(text, token.end()) is None:
                return token.end()
    return len(text)
