"""HTML in which text is escaped unless it was built here."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

_VOID = frozenset({"img", "input", "meta"})


class Html(str):
    """Markup; every other string is text and gets escaped."""

    __slots__ = ()


Content = str | Html | Iterable["Content"]


def _render(content: Content) -> str:
    if isinstance(content, Html):
        return str(content)
    if isinstance(content, str):
        # A lone surrogate, as file names can hold, has no place in UTF-8.
        return html.escape(content.encode("utf-8", "replace").decode("utf-8"), quote=True)
    return "".join(_render(part) for part in content)


def tag(name: str, /, *content: Content, **attributes: str) -> Html:
    """One element.

    Args:
        name: of the element.
        *content: text (escaped), ``Html``, or nested sequences of both.
        **attributes: escaped; a trailing underscore is dropped (``class_``), others become dashes.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_render(str(value))}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Html(f"<{name}{words}>")
    return Html(f"<{name}{words}>{_render(content)}</{name}>")


def data_uri(content: bytes, kind: str) -> str:
    """Content as an address that needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture(content: bytes, kind: str, alt: str) -> Html:
    """A picture inside the page; a click shows it in full size."""
    image = tag("img", src=data_uri(content, kind), alt=alt, loading="lazy")
    return tag("label", tag("input", type="checkbox", hidden="hidden"), image, class_="zoom")


def table(
    header: Sequence[Content], rows: Iterable[Sequence[Content]], class_: str = "numbers"
) -> Html:
    """A table that scrolls by itself where the page is narrow.

    Args:
        header: of the columns.
        rows: cells; a cell that is a whole ``<td>`` is taken as it is.
        class_: of the table.
    """

    def cell(content: Content, index: int) -> Html:
        if isinstance(content, Html) and content.startswith("<td"):
            return content
        return tag("th", content, scope="row") if index == 0 else tag("td", content)

    head = tag("thead", tag("tr", [tag("th", content, scope="col") for content in header]))
    body = tag(
        "tbody",
        [tag("tr", [cell(content, i) for i, content in enumerate(row)]) for row in rows],
    )
    return tag("div", tag("table", head, body, class_=class_), class_="scroll")


def section(title: str, *content: Content) -> Html:
    """A part of the page under a heading."""
    return tag("section", tag("h2", title), *content)


def folded(title: str, *content: Content) -> Html:
    """What opens on a click."""
    return tag("details", tag("summary", title), *content)


def page(title: str, *content: Content) -> str:
    """A whole document that loads nothing from elsewhere and runs no script."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *content)), lang='en')}\n"


_STYLE = """
:root { --ink: #1c2128; --soft: #5b6472; --line: #d6dbe2; --page: #ffffff; --band: #f4f6f9;
  --good: #1a7f37; --bad: #b42318; --note: #fff6d9; --heat: 47, 129, 247; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa4b2; --line: #2f3743;
  --page: #0f1319; --band: #171d26; --good: #56d364; --bad: #ff8b7e; --note: #2d2710; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--line);
  padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
p, figcaption { color: var(--soft); margin: .3rem 0 .8rem; overflow-wrap: anywhere; }
.note { background: var(--note); color: var(--ink); border-left: 3px solid #d4a72c;
  padding: .5rem .8rem; margin: .8rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .6rem;
  margin: .8rem 0; }
.tiles > div { background: var(--band); border-radius: 6px; padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .8rem; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .65rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; border-bottom-width: 2px; }
th:first-child { text-align: left; font-weight: 500; }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
tbody tr:hover { background: var(--band); }
.best { color: var(--good); font-weight: 700; }
.better { color: var(--good); } .worse { color: var(--bad); } .same { color: var(--soft); }
small { font-size: .8em; }
figure { margin: 0 0 1rem; }
img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
.curve { overflow-x: auto; } .curve img { min-width: 34rem; margin: 0 auto; }
.frame { display: grid; grid-template-columns: minmax(0, 1fr); gap: .6rem; margin-bottom: 2rem; }
@media (min-width: 62rem) {
  .frame.cams { grid-template-columns: minmax(0, 2fr) minmax(0, 5fr); align-items: start; } }
.zoom { display: block; cursor: zoom-in; overflow: auto; }
.zoom:has(input:checked) { grid-column: 1 / -1; }
.zoom input:checked + img { max-width: none; cursor: zoom-out; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); }
pre { overflow: auto; background: var(--band); padding: .8rem; font-size: .78rem;
  max-height: 30rem; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
"""
