"""A report as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { --ink: #1d2733; --soft: #5b6b7b; --line: #dde3ea; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7f9; color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 28px 64px; background: #fff;
       min-height: 100vh; border-inline: 1px solid var(--line); }
h1 { font-size: 1.75rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; }
p { margin: .4rem 0 1rem; max-width: 46rem; } .soft { color: var(--soft); font-size: .92rem; }
.verdict { border-left: 4px solid var(--accent); padding: .7rem 1rem; background: #eef5fa;
           font-size: 1.08rem; max-width: none; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); font-weight: 600; }
tr.strong td { font-weight: 650; background: #eef5fa; }
figure { margin: .6rem 0 0; } img { max-width: 100%; height: auto; display: block; }
details { margin-top: 2rem; } summary { cursor: pointer; color: var(--soft); }
.settings td { text-align: left; font-family: ui-monospace, monospace; font-size: .85rem; }
"""


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>\n"
        f'<h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p>\n'
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def verdict(text: str) -> str:
    """The sentence that everyone reads."""
    return f'<p class="verdict">{escape(text)}</p>'


def section(heading: str, text: str, *content: str) -> str:
    """A heading, a sentence, and figures or tables."""
    words = f"<p>{escape(text)}</p>" if text else ""
    return f"<section><h2>{escape(heading)}</h2>{words}{''.join(content)}</section>"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], strong: int | None = None) -> str:
    """A table; row number `strong` stands out."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr{' class=strong' if i == strong else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(data_uri: str, description: str) -> str:
    """An inline image."""
    return f'<figure><img src="{data_uri}" alt="{escape(description, quote=True)}"></figure>'


def sentences(lines: Iterable[str]) -> str:
    """Short lines below each other."""
    return '<p class="soft">' + "<br>".join(escape(line) for line in lines) + "</p>"


def settings(values: dict[str, Any]) -> str:
    """All settings, folded away."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
        for name, value in values.items()
    )
    return f'<details><summary>Settings</summary><table class="settings">{rows}</table></details>'
