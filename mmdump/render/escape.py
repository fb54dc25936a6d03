"""Make strings from a dump safe to show: the dump is hostile input and a terminal obeys what it is sent."""

from __future__ import annotations

__all__ = ["escape"]


def escape(text: str) -> str:
    r"""The text with everything that is not plainly visible turned into backslash escapes.

    That is control characters (C0 with ESC and newlines, DEL, C1), format characters (bidirectional
    overrides, zero-width ones), line separators, blanks other than the space, surrogates, private use and
    unassigned code points: exactly what :meth:`str.isprintable` rejects. A backslash stays as it is, since
    names hold it and it does no harm; the exact string is in JSON and CSV.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
