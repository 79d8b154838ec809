"""Texts that attack a terminal, and a check that a program's output contains none of their characters."""

import re
import unicodedata

ATTACKS = {
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "clipboard by string terminator": "\x1b]52;p;cm0gLXJmIH4=\x1b\\",
    "link": "\x1b]8;;https://evil.example\x1b\\docs\x1b]8;;\x1b\\",
    "title": "\x1b]0;owned\x07",
    "title reported": "\x1b]2;rm -rf ~\x07\x1b[21t",
    "clear screen": "\x1b[2J\x1b[3J\x1b[H",
    "reset": "\x1bc",
    "cursor up and overwrite": "\x1b[1A\x1b[2Kfine",
    "cursor saved": "\x1b7\x1b[999;999H\x1b8",
    "position reported": "\x1b[6n",
    "answerback": "\x05",
    "overwritten line": "failed\rsucceeded",
    "overwritten character": "rm\x08\x08ls",
    "settings reported": '\x1bP$q"p\x1b\\',
    "user-defined keys": "\x1bP0;1|17/6c73\x9c",
    "eight-bit control": "\x9b2J\x9d0;owned\x9c\x90$qm\x9c",
    "alternate screen": "\x1b[?1049h",
    "mouse": "\x1b[?1003h",
    "paste": "\x1b[201~\nid\n\x1b[200~",
    "colours": "\x1b[38;5;16;48;5;16mhidden\x1b[8m",
    "other character set": "\x0e\x1b(0qqq\x0f",
    "window": "\x1b[8;1;1t\x1b[2t",
    "bell": "\x07" * 8,
    "form feed": "\x0c\x0b",
    "delete": "\x7f\x00",
    "reading direction": "\u202egnp.exe\u202c \u2066x\u2069 \u200f\u061c",
    "no width": "ad\u200bmin\u200d\u2060\ufeff",
    "soft hyphen": "pass\xadword",
    "line ends": "one\ntwo\r\nthree\x85four\u2028five\u2029six",
    "tags": "\U000e0041\U000e007f",
    "private use": "\ue000\U000f0000\U0010ffff",
    "surrogates": "\ud800 \udfff",
    "unassigned": "\u0378\ufff0",
    "interlinear": "\ufff9a\ufffab\ufffb",
}
"""Known attacks on terminals, and on the people who read them."""
BYTE_ATTACKS = {"no UTF-8": b"\x9b2J \xff\xfe \xc0\xaf \xed\xa0\x80 \x90q\x9c"}
"""Attacks that are not valid UTF-8."""
ALL_ATTACKS = " ".join(ATTACKS.values())
_OWN_STYLES = re.compile("\x1b\\[(?:0|1|2|3[1-6]|1;3[1-6])m")
"""Colours that flargo itself uses; no attack contains one of them."""
_UNPRINTABLE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def bad_characters(output: bytes) -> set[str]:
    """Return the characters of an output that are not printable, except line ends and flargo's own colours."""
    text = _OWN_STYLES.sub("", output.decode()).replace("\r\n", "").replace("\n", "")
    return {character for character in text if unicodedata.category(character) in _UNPRINTABLE_CATEGORIES}
