"""Text from outside, escaped for a terminal, XML, Markdown, SARIF and GitHub Actions."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["command_data", "command_property", "escaped", "markdown_code", "raw", "sarif", "xml"]

#: What XML 1.0 cannot contain, as pytest's own JUnit report sees it: also DEL.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\x7e\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PLACEHOLDER: Final = re.compile(r"[{}]")
_LINK: Final = "]("


def raw(text: str) -> bytes:
    """Return *text* as bytes: those of the path, or UTF-8; this works for any text."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A surrogate that stands for no byte: names on Windows, text that is not a path.
        return text.encode("utf-8", "surrogatepass")


def escaped(text: str, *, controls: bool = False) -> str:
    r"""Return *text* with bytes that are not UTF-8 as ``\xNN``.

    :param controls: Whether to escape control characters too, as a terminal needs it.
    """
    text = raw(text).decode("utf-8", "backslashreplace")
    if not controls or text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def xml(text: str) -> str:
    """Return *text* with what XML 1.0 cannot contain as ``#xNN``, as pytest writes it.

    Markup is left to the XML library.
    """
    return _NOT_XML.sub(lambda found: f"#x{ord(found[0]):02X}", text)


def markdown_code(text: str) -> str:
    """Return *text* as code for one cell of a table: no markup, link or mention works in it."""
    text = escaped(text, controls=True)
    if text.strip(" ") and not set(text) & {"`", "|", "\\"}:
        return f"`{text}`"
    # A reference cannot end a cell or begin markup, unlike the character itself.
    code = (c if c.isalnum() or c in " /." else f"&#{ord(c)};" for c in text)
    return f"<code>{''.join(code)}</code>"


def command_data(text: str) -> str:
    """Return *text* as the message of a workflow command of GitHub Actions."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def command_property(text: str) -> str:
    """Return *text* as the value of a property of a workflow command."""
    return command_data(text).replace(":", "%3A").replace(",", "%2C")


def sarif(text: str) -> str:
    """Return *text* for a SARIF message, where it is neither placeholder nor link."""
    text = _PLACEHOLDER.sub(lambda found: found[0] * 2, text)
    # The backslash is shown where there is no link, so that it is not added to node ids.
    return text.replace("\\", "\\\\").replace("[", r"\[") if _LINK in text else text
