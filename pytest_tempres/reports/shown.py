"""How is any text shown, so that every terminal and every channel takes it?"""

from __future__ import annotations

__all__ = ["raw", "shown"]


def raw(text: str) -> bytes:
    """Return the bytes that *text* stands for; any text, and the bytes of any path."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A surrogate that stands for no byte: names on Windows, text that is no path.
        return text.encode("utf-8", "surrogatepass")


def shown(text: str, *, controls: bool = False) -> str:
    r"""Return *text* with bytes that are not UTF-8 as ``\xNN``.

    :param controls: Whether to escape control characters too, as a terminal needs it.
    """
    text = raw(text).decode("utf-8", "backslashreplace")
    if not controls or text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
