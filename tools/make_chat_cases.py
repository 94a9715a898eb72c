#!/usr/bin/env python3
"""Renders chat templates through Jinja2, set up as transformers sets it up, for plumb to be held against.

    make_chat_cases.py                               rewrites tests/chat/cases.json from tests/chat/templates
    make_chat_cases.py --out CASES.json PATH...      cases of other templates: folders, .jinja files, GGUF files
    make_chat_cases.py --unicode-tables              rewrites src/chat/unicode_tables.inc

Needs jinja2 (3.1.6 or newer); a GGUF needs the package gguf too.
"""
import argparse
import functools
import json
import re
import sys
import textwrap
import unicodedata
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


# --- Unicode tables ---


def case_runs(mapping):
    """Runs of code points with one difference and one step, and those that map to several letters."""
    mapped = {c: mapping(chr(c)) for c in CODE_POINTS if mapping(chr(c)) != chr(c)}
    specials = [(c, text) for c, text in mapped.items() if len(text) > 1]
    runs = []
    for c, text in mapped.items():
        if len(text) > 1:
            continue
        delta = ord(text) - c
        last = runs[-1] if runs else None
        if last and last[3] == delta and (c - last[1] == last[2] or (last[0] == last[1] and c - last[1] in (1, 2))):
            if last[0] == last[1]:
                last[2] = c - last[1]
            last[1] = c
        else:
            runs.append([c, c, 1, delta])
    return runs, specials


def unicode_tables():
    lines = ["// SPDX-License-Identifier: Apache-2.0",
             f"// Made by tools/make_chat_cases.py --unicode-tables from Unicode {unicodedata.unidata_version}."]

    def table(declaration, rows):
        lines.append(f"constexpr {declaration}[] = {{")
        lines.extend(textwrap.wrap(" ".join(rows), 98, break_on_hyphens=False))
        lines.append("};")

    for name, mapping in (("Upper", str.upper), ("Lower", str.lower), ("Title", str.title)):
        runs, specials = case_runs(mapping)
        table(f"CaseRun k{name}Runs", [f"{{{a},{b},{step},{delta}}}," for a, b, step, delta in runs])
        escaped = lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode())
        table(f"CaseSpecial k{name}Specials", [f'{{{c},"{escaped(text)}"}},' for c, text in specials])
    ranges = []
    for c in range(0x110000):
        if chr(c).isprintable():
            continue
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    table("CodePointRange kNotPrintable", [f"{{{a},{b}}}," for a, b in ranges])
    return "\n".join(lines) + "\n"


# --- Jinja2 as transformers sets it up ---


def environment(now):
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, args = args[0], args[1:]
            attributes = dict(*args, **kwargs)
            for name in attributes:
                check(name)
            jinja2.utils.Namespace.__init__(self, attributes)

        def __setitem__(self, name, value):
            check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"an attribute of a namespace begins with '_': {name}")

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["namespace"] = Namespace
    env.globals["strftime_now"] = lambda text: now.strftime(text)
    return env


NOW = datetime(2024, 7, 6, 9, 5, 3)  # a Saturday; 1720256703 seconds after 1970
U, A, S = "user", "assistant", "system"
LISTS = [
    [(U, "Hello")],
    [(S, "You are terse."), (U, "Hello")],
    [(U, "Hello"), (A, "Hi there."), (U, "How are you?")],
    [(S, "Be kind."), (U, "Hello"), (A, "Hi."), (U, "Who?"), (A, "Me."), (U, "Bye")],
    [(U, "Count to"), (A, "one, two")],
    [(S, "S"), (U, "1 < 2 && \"x\" > 'y' \\ {{ no }} {% raw %}"), (A, "<b>&amp;</b>")],
    [(U, "Größe: 10 µm – 日本語 🙂 e\u0301"), (A, "Да.\u00a0")],
    [(S, ""), (U, ""), (A, ""), (U, "x")],
    [(S, "  two spaces  "), (U, "  lead and trail \n"), (A, "\n\n lines \n\n"), (U, "\ttab\t")],
    [(U, "a\nb\n\nc\r\nd"), (A, "<think>\nhm\n</think>\n\nanswer"), (U, "more"), (A, "<think>x</think>y")],
    [(U, "one"), (U, "two")],
    [(A, "I begin."), (U, "ok")],
    [(S, "one"), (S, "two"), (U, "three")],
    [("tool", "result"), (U, "x")],
    [(S, "only the system")],
    [],
]


def variants(source):
    extras = [{}]
    for name, values in (("enable_thinking", (True, False)), ("thinking", (True, False)),
                         ("reasoning_effort", ("low",)), ("keep_all_reasoning", (True,)),
                         ("date_string", ("06 Jul 2024",)), ("preserve_thinking", (True,))):
        if name in source:
            extras += [{name: value} for value in values]
    return extras


@functools.cache
def compiled(env, source):
    try:
        return env.from_string(source), None
    except Exception as error:
        return None, error


def render(env, source, messages, generate, extra, tokens):
    """The text, or None with the error that Jinja2 or Python raised."""
    try:
        template, failed = compiled(env, source)
        if failed:
            raise failed
        chat = [{"role": role, "content": content} for role, content in messages]
        return template.render(messages=chat, tools=None, documents=None, add_generation_prompt=generate,
                                              **tokens, **extra), None
    except Exception as error:  # Whatever it is: plumb has to refuse as well.
        return None, f"{type(error).__name__}: {error}"


def cases_of(env, name, source, lists):
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    cases = []
    for index in lists:
        for extra in variants(source):
            for generate in (True, False):
                text, error = render(env, source, LISTS[index], generate, extra, tokens)
                case = {"list": index, "generate": generate}
                if extra:
                    case["extra"] = extra
                case |= {"text": text} if error is None else {"error": error}
                cases.append(case)
    return {"name": name, "source": source, "cases": cases}


def templates_of(path):
    if path.suffix == ".gguf":
        from gguf import GGUFReader
        for key, field in GGUFReader(path).fields.items():
            if key.startswith("tokenizer.chat_template") and key != "tokenizer.chat_templates":
                yield f"{path.name}:{key}", bytes(field.parts[field.data[0]]).decode()
    elif path.is_dir():
        for file in sorted(path.glob("*.jinja")):
            yield file.stem, file.read_bytes().decode()
    else:
        yield path.stem, path.read_bytes().decode()


def named_templates():
    """The templates that plumb brings, out of its source."""
    source = (ROOT / "src/chat/named_templates.cpp").read_text()
    for name, text in re.findall(r'\{"([\w-]+)", R"jinja\((.*?)\)jinja"\}', source, re.DOTALL):
        yield f"plumb/{name}", text


def expressions(env):
    """One expression or small template a line of tests/chat/expressions.txt, with what Jinja2 makes of it."""
    out = []
    for line in (ROOT / "tests/chat/expressions.txt").read_text().splitlines():
        if not line or line.startswith("##"):
            continue
        source = line.replace("␤", "\n")
        text, error = render(env, source, LISTS[3], True, {}, {"bos_token": "<s>", "eos_token": "</s>"})
        out.append({"source": source} | ({"text": text} if error is None else {"error": error}))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--unicode-tables", action="store_true")
    parser.add_argument("path", nargs="*", type=Path)
    arguments = parser.parse_args()
    if arguments.unicode_tables:
        (ROOT / "src/chat/unicode_tables.inc").write_text(unicode_tables())
        return 0
    env = environment(NOW)
    paths = arguments.path or [ROOT / "tests/chat/templates"]
    content = {"now": 1720256703, "lists": LISTS,
               "templates": [cases_of(env, name, source, range(len(LISTS)))
                             for path in paths for name, source in templates_of(path)]}
    if not arguments.path:
        content["templates"] += [cases_of(env, name, source, range(len(LISTS))) for name, source in named_templates()]
        content["expressions"] = expressions(env)
    out = arguments.out or ROOT / "tests/chat/cases.json"
    out.write_text(json.dumps(content, ensure_ascii=False, indent=0, separators=(",", ":")) + "\n")
    count = sum(len(template["cases"]) for template in content["templates"])
    print(f"{out}: {len(content['templates'])} templates, {count} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
