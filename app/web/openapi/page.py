"""The documentation as it is served: the OpenAPI document, and the same as a page for people."""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
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
_ADDRESS = "http://127.0.0.1:8080"
# The first part of a path, and what its calls are about; what is not here is about the service itself.
_GROUPS = {
    "destinations": "Destinations", "destination": "Destinations", "jobs": "Jobs", "collections": "Collections",
    "deliveries": "Deliveries", "leftovers": "Leftovers", "notifications": "Notifications",
    "accounts": "Accounts", "audit": "Accounts",
}  # fmt: skip
_SERVICE = "The service"
_FIRST_STEPS = (
    ("What the key must be allowed", "Attach this policy to the key at the provider, and nothing more.", "policy"),
    (
        "Create a destination",
        "The answer takes as long as the test needs: a small file is uploaded and deleted again. Only if both succeed "
        "is there a destination, and the answer is 200.",
        "create_destination",
    ),
    (
        "If it is refused",
        "The answer is 400, and nothing was stored. `message` says what failed and what to do, `error.code` what a "
        "program goes by, `error.verification` each step with the provider's own code and request id.",
        "",
    ),
    ("See what is there", "With what was found when each was verified last.", "list_destinations"),
)


def routes() -> list[web.RouteDef]:
    """The document, the page and its style; each is made once, when somebody asks for it."""
    style = Path(__file__).with_name("page.css")
    return [
        web.get("/", _to_the_page),
        _served("/openapi.json", lambda: json.dumps(_document(), ensure_ascii=False), JSON),
        _served("/docs", lambda: page(_document()), "text/html"),
        _served("/docs.css", style.read_text, "text/css"),
    ]


_document = cache(document)


async def _to_the_page(request: web.Request) -> web.Response:
    """Somebody who opens the address in a browser wants to read; a program has mistaken the path."""
    if "text/html" not in request.headers.get("Accept", ""):
        raise web.HTTPNotFound
    return web.Response(status=303, headers={"Location": "/docs"})


def _served(path: str, make: Callable[[], str], content_type: str) -> web.RouteDef:
    made = cache(make)

    async def serve(_: web.Request) -> web.Response:
        text = await asyncio.to_thread(made)
        return web.Response(text=text, content_type=content_type, charset="utf-8", headers=_HEADERS)

    return web.get(path, serve)


def page(described: Schema) -> str:
    """The document as one page of HTML, without scripts: a guide first, then each call with all that belongs to it."""
    info, schemas, examples = described["info"], described["components"]["schemas"], described["components"]["examples"]
    groups: dict[str, list[_Call]] = {}
    for path, methods in described["paths"].items():
        for method, call in methods.items():
            groups.setdefault(_GROUPS.get(path.split("/")[1], _SERVICE), []).append((method.upper(), path, call))
    calls = [each for group in groups.values() for each in group]
    sections = {
        "First steps": _text(info["description"])
        + _first_steps(calls, schemas, examples["400.secret_mismatch"]["value"]),
        **{title: "".join(_call(*each, schemas) for each in group) for title, group in groups.items()},
        "Answers": "".join(_answer(name, schemas) for name in schemas if _is_answer(name, schemas)),
        "Refusals": _text("Every code, with an example of its message.") + _refusals(examples),
    }
    title = escape(f"{info['title']} API {info['version']}")
    content = "".join(f'<section id="{_slug(t)}"><h2>{t}</h2>{inside}</section>' for t, inside in sections.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>' + title + "</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/docs.css">'
        f'</head><body><header><h1>{title}</h1><a href="/openapi.json">openapi.json</a></header>'
        f"{_contents(sections, groups)}<main>{content}</main></body></html>"
    )


_Call = tuple[str, str, Schema]
"""A method, a path, and what the document says of the call."""


def _contents(sections: Iterable[str], groups: Mapping[str, Iterable[_Call]]) -> str:
    """What is on the page, beside it."""
    rows = []
    for title in sections:
        calls = "".join(
            f'<li><a href="#{call["operationId"]}">{_method(method)}<span>{escape(path)}</span></a></li>'
            for method, path, call in groups.get(title, ())
        )
        rows.append(f'<li><a href="#{_slug(title)}">{title}</a>{f"<ul>{calls}</ul>" if calls else ""}</li>')
    return f'<nav aria-label="On this page" tabindex=0><ul>{"".join(rows)}</ul></nav>'


def _first_steps(calls: Iterable[_Call], schemas: Schema, refusal: Any) -> str:
    by_id = {call["operationId"]: (method, path, call) for method, path, call in calls}
    steps = ""
    for title, words, call in _FIRST_STEPS:
        shown = _pre(_curl(*by_id[call], schemas)) if call else _details("A refusal", _code(refusal))
        steps += f"<li><h3>{title}</h3>{_text(words)}{shown}</li>"
    return f"<ol class=steps>{steps}</ol>"


def _call(method: str, path: str, call: Schema, schemas: Schema) -> str:
    parameters = [(_mono(p["name"]), _kind(p["schema"]), _words(p["description"])) for p in call["parameters"]]
    answers = []
    for status, answer in call["responses"].items():
        (content,) = answer["content"].values()
        codes = " ".join(f'<a href="#{status}.{code}"><code>{code}</code></a>' for code in content.get("examples", ()))
        body = f"<div class=codes>{codes}</div>" if codes else f"<div>{_kind(content['schema'])}</div>"
        answers.append((_mono(status), _words(answer["description"]) + body))
    return (
        f'<article id="{call["operationId"]}"><h3>{_method(method)} {_mono(path)}</h3>'
        f"<div class=call><div>{_text(call['summary'])}"
        + (_table(("parameter", "value", "meaning"), parameters) if parameters else "")
        + _body(call, schemas)
        + f"{_details('Answers', _table(('status', 'when'), answers))}</div>"
        + f"<div>{_pre(_curl(method, path, call, schemas))}</div></div></article>"
    )


def _method(method: str) -> str:
    return f'<b class="{method.lower()}">{method}</b>'


def _body(call: Schema, schemas: Schema) -> str:
    """What the body of a call has, if it takes one."""
    if "requestBody" not in call:
        return ""
    kinds, schema = call["requestBody"]["content"], _body_schema(call, schemas)
    said = f"<p>The body is {' or '.join(map(_mono, kinds))}"
    if call["operationId"] == "create_destination":
        types = "".join(_type(schemas[_named(each)]) for each in schema["oneOf"])
        return f'{said}, with the parameters of its type:</p><div id="types">{types}</div>'
    if "oneOf" in schema:
        return f'{said}, as of <a href="#create_destination">a create</a>.</p>'
    if "anyOf" in schema:
        return (
            f'{said}, as of <a href="#create_destination">a create</a>, with what changes alone; null removes what is '
            "optional.</p>"
        )
    return f"{said}:</p>{_fields(schema)}" if schema["properties"] else f"{said}, and may be empty.</p>"


def _body_schema(call: Schema, schemas: Schema) -> Schema:
    content = next(iter(call["requestBody"]["content"].values()))
    schema: Schema = schemas[_named(content["schema"])]
    return schema


def _curl(method: str, path: str, call: Schema, schemas: Schema) -> str:
    """The call as a command; what stands in it in capitals is to be replaced."""
    asked = [p for p in call["parameters"] if p["in"] == "query" and (p.get("required") or "example" in p)]
    query = "&".join(f"{p['name']}={p.get('example') or _sample(p['name'], p['schema'], schemas)}" for p in asked)
    address = _ADDRESS + re.sub(r"{(.*?)}", lambda part: part[1].upper(), path) + (f"?{query}" if query else "")
    lines = [f"curl '{address}'" if query else f"curl {address}"]
    lines += (
        [f"-X {method}"] if method not in ("GET", "POST") or (method == "POST" and "requestBody" not in call) else []
    )
    lines += ["-H 'Authorization: Bearer KEY'"] if call.get("security") != [] else []
    if "requestBody" in call:
        body = json.dumps(_sample("", _body_schema(call, schemas), schemas), indent=2).replace("\n", "\n  ")
        lines += ["-H 'Content-Type: application/json'", f"-d '{body}'"]
    return " \\\n  ".join(lines)


def _sample(name: str, schema: Schema, schemas: Schema) -> Any:
    """A value that `schema` takes, or the name of what is to be put there, in capitals."""
    match schema:
        case {"examples": [example, *_]} | {"const": example} | {"enum": [example, *_]}:
            return example
        case {"$ref": _}:
            return _sample(name, schemas[_named(schema)], schemas)
        case {"oneOf": [first, *_]}:
            return _sample(name, first, schemas)
        case {"anyOf": [{"$ref": _}, *_]}:
            return {"name": "NAME"}
        case {"anyOf": [first, *_]}:
            return _sample(name, first, schemas)
        case {"type": "object", "properties": properties}:
            shown = schema["required"] or list(properties)[:1]
            return {each: _sample(each, properties[each], schemas) for each in shown}
        case {"type": "array", "items": items}:
            return [_sample(name.removesuffix("s"), items, schemas)]
        case {"type": "integer"}:
            return schema.get("minimum", 0)
        case {"format": "date-time"}:
            return "2026-03-01T00:00:00Z"
    return name.upper()


def _type(schema: Schema) -> str:
    (example,) = schema["examples"]
    return (
        f"<details><summary>{_mono(example['type'])} {escape(schema['title'])}</summary>"
        f'<div id="{example["type"]}">{_text(schema["description"])}{_fields(schema)}'
        f"{_details('As JSON', _code(example))}</div></details>"
    )


def _refusals(examples: Schema) -> str:
    """The codes of each status, folded."""
    by_status: dict[str, list[tuple[str, str]]] = {}
    for name, each in examples.items():
        status, _, code = name.partition(".")
        message = escape(each["value"]["request_info"]["message"])
        by_status.setdefault(status, []).append((f'<span id="{name}">{_mono(code)}</span>', message))
    return "".join(
        _details(
            f"{_mono(status)} {len(rows)} {'code' if len(rows) == 1 else 'codes'}", _table(("code", "message"), rows)
        )
        for status, rows in sorted(by_status.items())
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
    return f'<details><summary>{name}</summary><div id="{name}">{inside}</div></details>'


def _fields(schema: Schema) -> str:
    def row(name: str, field: Schema) -> tuple[str, ...]:
        kind = _kind(field) + ("" if name in schema["required"] else " <small>optional</small>")
        return (_mono(name), kind, _words(field.get("description", "")))[: len(head)]

    described = any("description" in field for field in schema["properties"].values())
    head = ("name", "value", "meaning") if described else ("name", "value")
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


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def _named(ref: Schema) -> str:
    return str(ref.get("$ref", "")).rpartition("/")[2]
