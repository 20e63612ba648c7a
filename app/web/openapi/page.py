"""The documentation as it is served: the OpenAPI document, and the same as a page for people."""

import json
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from aiohttp import web

from app.web.body import JSON
from app.web.openapi import document
from app.web.openapi.operations import Schema

# Nothing on the page runs, and nothing comes from elsewhere.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_NOT_SHOWN = frozenset({"Create", "Update", "Fault"})
_CURL = """\
curl http://127.0.0.1:8080/destinations \\
  -H 'Authorization: Bearer KEY' \\
  -H 'Content-Type: application/json' \\
  -d '{body}'"""


def routes() -> list[web.RouteDef]:
    """The document, the page and its style; all three are made once."""
    described = document()
    style = Path(__file__).with_name("page.css").read_text()
    return [
        _served("/openapi.json", json.dumps(described, ensure_ascii=False), JSON),
        _served("/docs", page(described), "text/html"),
        _served("/docs.css", style, "text/css"),
    ]


def _served(path: str, text: str, content_type: str) -> web.RouteDef:
    async def serve(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type=content_type, charset="utf-8", headers=_HEADERS)

    return web.get(path, serve)


def page(described: Schema) -> str:
    """The document as one page of HTML, without scripts."""
    info, schemas, examples = described["info"], described["components"]["schemas"], described["components"]["examples"]
    types = [_named(each) for each in schemas["Create"]["oneOf"]]
    sections = {
        "Calls": "".join(
            _call(method.upper(), path, call)
            for path, methods in described["paths"].items()
            for method, call in methods.items()
        ),
        "Types": _text("What a create takes. An update takes only what changes; null removes what is optional.")
        + "".join(_type(schemas[name]) for name in types),
        "Answers": "".join(_answer(name, schemas) for name in schemas if _is_answer(name, schemas)),
        "Refusals": _text("Every code, with an example of its message.")
        + _details("A whole answer", _code(examples["400.secret_mismatch"]["value"]))
        + _table(("status", "code", "message"), (_refusal(name, each["value"]) for name, each in examples.items())),
    }
    links = "".join(f'<li><a href="#{title.lower()}">{title}</a></li>' for title in sections)
    content = "".join(f'<section id="{t.lower()}"><h2>{t}</h2>{inside}</section>' for t, inside in sections.items())
    title = escape(f"{info['title']} API {info['version']}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>' + title + "</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/docs.css">'
        f'</head><body><header><h1>{title}</h1><nav aria-label="On this page"><ul>{links}'
        '<li><a href="/openapi.json">openapi.json</a></li></ul></nav></header>'
        f"<main>{_text(info['description'])}{content}</main></body></html>"
    )


def _call(method: str, path: str, call: Schema) -> str:
    parameters = [(_mono(p["name"]), _kind(p["schema"]), _words(p["description"])) for p in call["parameters"]]
    answers = []
    for status, answer in call["responses"].items():
        (content,) = answer["content"].values()
        codes = " ".join(f'<a href="#{status}.{code}"><code>{code}</code></a>' for code in content.get("examples", ()))
        told = f"<div class=codes>{codes}</div>" if codes else f"<div>{_kind(content['schema'])}</div>"
        answers.append((_mono(status), _words(answer["description"]) + told))
    bodies = " or ".join(map(_mono, call.get("requestBody", {"content": ()})["content"]))
    return (
        f'<article id="{call["operationId"]}"><h3><b class="{method.lower()}">{method}</b> {_mono(path)}</h3>'
        + _text(call["summary"])
        + (f'<p>The body is {bodies}: see <a href="#types">Types</a>.</p>' if bodies else "")
        + (_table(("parameter", "value", "meaning"), parameters) if parameters else "")
        + f"{_details('Answers', _table(('status', 'when'), answers))}</article>"
    )


def _type(schema: Schema) -> str:
    (example,) = schema["examples"]
    kind, curl = example["type"], _CURL.format(body=json.dumps(example, indent=2).replace("\n", "\n  "))
    return (
        f'<article id="{kind}"><h3>{_mono(kind)} {escape(schema["title"])}</h3>{_text(schema["description"])}'
        f"{_fields(schema)}{_details('Example', _pre(curl))}</article>"
    )


def _is_answer(name: str, schemas: Schema) -> bool:
    """Whether it has a name of its own on the page: what is a variant of another, or of a request, has none."""
    variants = {_named(ref) for each in schemas.values() for ref in (*each.get("oneOf", ()), *each.get("anyOf", ()))}
    return name not in _NOT_SHOWN | variants


def _answer(name: str, schemas: Schema) -> str:
    """One schema: its values, or its fields; of one that differs by type, the fields that every type has."""
    variants = [schemas[_named(each)] for each in schemas[name].get("oneOf", ())] or [schemas[name]]
    inside = _text(schemas[name].get("description", ""))
    if "properties" in variants[0]:
        common = set.intersection(*(set(each["properties"]) for each in variants))
        fields = {n: s for n, s in variants[0]["properties"].items() if n in common}
        if len(variants) > 1:
            fields["type"] = {"enum": [each["properties"]["type"]["const"] for each in variants]}
            inside += _text("Beside these, the parameters of its type that are no credentials.")
        inside += _fields({**variants[0], "properties": fields})
    else:
        inside += f"<p>{_kind(variants[0])}</p>"
    inside += "".join(_details("Example", _code(each)) for each in variants[0].get("examples", ()))
    return f'<article id="{name}"><h3>{name}</h3>{inside}</article>'


def _fields(schema: Schema) -> str:
    def row(name: str, field: Schema) -> tuple[str, ...]:
        kind = _kind(field) + ("" if name in schema["required"] else " <small>optional</small>")
        return (_mono(name), kind, _words(field.get("description", "")))[: len(head)]

    told = any("description" in field for field in schema["properties"].values())
    head = ("name", "value", "meaning") if told else ("name", "value")
    return _table(head, (row(name, field) for name, field in schema["properties"].items()))


def _kind(schema: Schema) -> str:
    """What a value is, in a few words."""
    match schema:
        case {"$ref": _}:
            name = _named(schema)
            return f'<a href="#{name}">{name}</a>' if name not in _NOT_SHOWN else '<a href="#refusals">code</a>'
        case {"const": value}:
            return _mono(json.dumps(value))
        case {"enum": values}:
            return " ".join(_mono(json.dumps(value)) for value in values)
        case {"anyOf": kinds}:
            return " or ".join(map(_kind, kinds))
        case {"type": "array", "items": items}:
            return f"list of {_kind(items)}"
        case {"type": "object", "properties": properties}:
            return "{" + ", ".join(f"{_mono(name)}: {_kind(each)}" for name, each in properties.items()) + "}"
        case {"type": kind, "format": "date-time"}:
            return "time" if kind == "string" else "time or null"
        case {"type": kind}:
            return escape(" or ".join(kind) if isinstance(kind, list) else kind)
    return ""


def _refusal(name: str, answer: Schema) -> tuple[str, str, str]:
    status, _, code = name.partition(".")
    return _mono(status), f'<span id="{name}">{_mono(code)}</span>', escape(answer["request_info"]["message"])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    first = "".join(f"<th scope=col>{each}</th>" for each in head)
    rest = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{first}</tr></thead><tbody>{rest}</tbody></table>"


def _details(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _text(text: str) -> str:
    return "".join(f"<p>{_words(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph)


def _words(text: str) -> str:
    """`text` escaped; what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _mono(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _code(content: Any) -> str:
    return _pre(json.dumps(content, indent=2, ensure_ascii=False))


def _pre(text: str) -> str:
    # What scrolls must be reachable by the keyboard.
    return f"<pre tabindex=0><code>{escape(text)}</code></pre>"


def _named(ref: Schema) -> str:
    return str(ref.get("$ref", "")).rpartition("/")[2]
