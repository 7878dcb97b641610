"""What the HTML pages share: their style, and the pieces that they are put together from."""

import base64
import html
import importlib.resources
import re
import string


def page(title, body, settings, words, heading=None):
    """Return a whole page: its body, and how the run was made, by a table of `settings` and the command's words."""
    return fill("page.html", __package__, title=title, heading=heading or title, style=_read(__package__, "page.css"), body=body,
                settings=settings, command=command(words))


def fill(name, package, **values):
    """Return the part of a page `name` of a package, with its ``$placeholders`` filled."""
    return string.Template(_read(package, name)).substitute(values)


def _read(package, name):
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")


def cards(verdicts):
    """The verdicts as a list of boxes, from a dict that gives each title its `Verdict`."""
    boxes = []
    for title, verdict in verdicts.items():
        kind = "verdict" if verdict.ok else "verdict bad"
        text = re.sub(r"\b[\d.]+e-?\d+\b", lambda found: number(float(found[0])), html.escape(verdict.text))
        boxes.append(f'<div class="{kind}"><h3>{html.escape(title)}</h3><p>{text}</p></div>')
    return "\n".join(boxes)


def number(value):
    """A number with three digits, as a person would write it."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}&nbsp;×&nbsp;10<sup>{str(int(exponent)).replace('-', '−')}</sup>"


def figure(light, dark, caption):
    width, height = _png_size(light)
    caption = html.escape(caption)
    # The browser takes the picture that fits the page's colours; both are in the page, so nothing is loaded.
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark)}">'
        f'<img src="{_data_uri(light)}" width="{width}" height="{height}" alt="{caption}"></picture>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _data_uri(png):
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _png_size(png):
    # The first chunk of a PNG, after 16 bytes of signature, length and name, begins with width and height.
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def command(words):
    """The command, to be broken only before an option."""
    return " ".join(f"<span>{html.escape(part)}</span>" for part in re.split(r" (?=--)", words))


def table(rows):
    """The rows of a table of settings, from pairs of a name and a value."""
    return "\n".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows)


def surroundings_rows(settings):
    """Names and values of what `surroundings` found, but for the digits."""
    machine = settings["machine"]
    return [
        ("machine", f"{machine['cpu']}, {machine['threads']} thread{'s' * (machine['threads'] != 1)}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in settings["versions"].items())),
    ]


def digits_row(settings):
    """Name and value of where the digits are from."""
    data = settings["data"]
    return "digits", f"{data['name']} ({data['train']:,} training and {data['test']:,} test images there)"
