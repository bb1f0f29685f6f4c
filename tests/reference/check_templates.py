"""Compares the C interpreter with Jinja2 on random expressions and templates.

  python3 check_templates.py RENDER_TEMPLATE [--n 20000] [--seed 1] [--conversations FOLDER ...]

RENDER_TEMPLATE is the executable built from tests/render_template.c.  With FOLDER (a model folder
with a chat template) its template is rendered too, on random conversations.  Both sides must give
the same bytes, or both an error.  Left out of the count, and reported: results that print an
address or a generator, and what the C side refuses by name (integers past 64 bits, methods and
filters it does not have)."""
import argparse
import copy
import json
import pathlib
import random
import re
import subprocess
import sys
import unicodedata
import warnings

import template_reference

VARIABLES = {
    "s": "Hello World", "e": "", "u": "Grüße, Ωμέγα ΣΑΣ 漢字 🙂", "w": "  two  words\n", "p": "a.b.c",
    "i": 7, "z": 0, "n": -3, "f": 2.5, "g": -0.1, "big": 123456789012, "t": True, "no": False,
    "nil": None, "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "el": [], "mix": [1, "a", None, 2.0],
    "nest": [[1, 2], [3], []], "d": {"b": 1, "a": [1, 2], "C": "x"}, "ed": {},
    "m": [{"role": "user", "content": "hi", "n": 2}, {"role": "assistant", "content": " yo ", "n": 1},
          {"role": "user", "content": "q?", "tool": {"name": "f", "args": {"x": 1.5}}}],
}
NAMES = list(VARIABLES)
STRINGS = ["''", "'a'", "'b'", "'Hello'", "' x '", "'o'", "'l'", "', '", '"it\'s"', "'\\n'", "'é'",
           "'role'", "'user'", "'a' 'b'", "'\\t\\u00e9'", "'A-b c'", "'12'", "' 3.7 '", "'0x1f'",
           "'ß'", "'%s'", "'ab\\ncd\\n'", "'-'", "'content'"]
NUMBERS = ["0", "1", "2", "3", "-1", "10", "0.5", "1.0", "1e3", "2.675", "100", "1_000", "0x10",
           "1e16", "1e-5", "5", "-2", "7"]
FILTERS = ["length", "count", "upper", "lower", "title", "capitalize", "trim", "string", "list",
           "first", "last", "reverse|list", "sort", "unique|list", "sum", "min", "max", "abs",
           "int", "float", "tojson", "dictsort", "items|list", "join", "safe", "round",
           "default('dd')", "d('x', true)", "join(', ')", "join('-', attribute='role')",
           "replace('l', 'L')", "replace('', '.')", "replace('o', '0', 1)", "trim('Hd ')",
           "indent", "indent(2, true)", "indent(width='> ', blank=true)", "tojson(indent=2)",
           "tojson(indent=0)", "tojson(sort_keys=true)", "tojson(ensure_ascii=true)",
           "tojson(separators=(',', ':'))", "map('upper')|list", "map('length')|list",
           "map(attribute='role')|list", "map(attribute='n', default=9)|list",
           "map(attribute='tool.name')|list", "select|list", "select('string')|list",
           "select('number')|list", "reject('none')|list", "select('gt', 1)|list",
           "selectattr('role', 'equalto', 'user')|list", "selectattr('tool')|list",
           "selectattr('tool', 'defined')|list", "rejectattr('role', 'eq', 'user')|list",
           "rejectattr('tool')|list", "sort(reverse=true)", "sort(case_sensitive=true)",
           "sort(attribute='n')", "sort(attribute='role,content')", "min(attribute='n')",
           "max(case_sensitive=true)", "sum(attribute='n')", "sum(start=10)", "int(5)",
           "int(base=16)", "float(1.5)", "round(1)", "round(1, 'floor')", "round(method='ceil')",
           "round(-1)", "dictsort(by='value')", "dictsort(true, reverse=true)",
           "unique(case_sensitive=true)|list", "unique(attribute='role')|list", "attr('role')",
           "select", "map('lower')|first", "map('string')|join(',')", "items|length"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true",
         "false", "mapping", "sequence", "iterable", "callable", "odd", "even", "lower", "upper",
         "divisibleby 2", "divisibleby(3)", "eq(1)", "equalto('a')", "ne 2", "gt(1)", "lt 3",
         "ge(2)", "le 2", "in [1, 'a']", "in('abc')", "sameas(none)", "sameas true"]
METHODS = [".strip()", ".lstrip()", ".rstrip()", ".strip('Hd ')", ".split()", ".split('l')",
           ".split(' ', 1)", ".rsplit(' ', 1)", ".rsplit(none, 1)", ".split(sep='.', maxsplit=1)",
           ".splitlines()", ".splitlines(true)", ".upper()", ".lower()", ".title()",
           ".capitalize()", ".swapcase()", ".startswith('H')", ".endswith('d')",
           ".startswith(('a', 'H'))", ".startswith('l', 2)", ".replace('l', 'L')",
           ".replace('l', 'L', 1)", ".find('o')", ".rfind('o')", ".index('o')", ".count('l')",
           ".count('')", ".join(ls)", ".join(['x', 'y'])", ".isdigit()", ".isalpha()", ".isalnum()",
           ".isspace()", ".isupper()", ".islower()", ".zfill(5)", ".center(15)", ".center(14, '*')",
           ".ljust(13, '.')", ".rjust(13)", ".partition(' ')", ".rpartition('l')",
           ".removeprefix('He')", ".removesuffix('ld')", ".keys()", ".values()", ".items()",
           ".get('a')", ".get('zz', 5)", ".keys()|list", ".items()|list", ".values()|list",
           ".append(1)", ".pop()", ".update({})", ".copy()", ".count(1)", ".index(2)", ".role",
           ".a", ".b", ".missing", ".content", ".__class__", "._x", ".0", "[0]", "[-1]", "[1]",
           "['a']", "['role']", "['upper']()", "['keys']", "[9]", "[1:]", "[:2]", "[::-1]", "[1:-1]",
           "[::2]", "[-2:]", "[:-1]", "[5:1:-2]", "[none:2]", "[0].content", "['a'][0]", "[true]",
           "[1.0]", "[:]", "[10:]", "[-100:100]"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in",
          "and", "or"]


def primary(r, depth):
    k = r.random()
    if k < 0.45:
        return r.choice(NAMES + ["missing"])
    if k < 0.6:
        return r.choice(STRINGS)
    if k < 0.75:
        return r.choice(NUMBERS)
    if k < 0.8:
        return r.choice(["true", "false", "none", "True", "None"])
    if depth <= 0:
        return r.choice(NAMES)
    items = [expression(r, depth - 2) for _ in range(r.randrange(4))]
    if k < 0.87:
        return "[" + ", ".join(items) + "]"
    if k < 0.9:
        return "(" + "".join(i + ", " for i in items) + ")"
    if k < 0.94:
        return "{" + ", ".join(f"{r.choice(STRINGS + NUMBERS)}: {i}" for i in items) + "}"
    if k < 0.97:
        return "range(" + ", ".join(r.choice(["0", "3", "7", "-2", "i", "10"])
                                    for _ in range(r.randrange(1, 4))) + ")"
    return r.choice(["dict(a=1, b=s)", "dict(d)", "dict([('k', 2)])", "namespace(a=1).a",
                     "namespace({'q': 2}).q", "dict(d, b=9)", "('%s-%d' % (s, i))", "('%s' % l)",
                     "('%5.2f|%r' % (f, s))", "('%(b)s' % d)", "('%05d|%-4s|' % (i, e))"])


# Expressions that mostly have a value: by the kind of value, with kinds of operands in braces.
TYPED = {
    "str": ["s", "u", "w", "p", "e", "'x'", "m[0].role", "m[-1]['content']", "{str} + {str}",
            "{str} ~ {any}", "{str} ~ {int} ~ {str}", "({str})|upper", "({str})|title", "({str})|trim",
            "({str})|capitalize", "({str})|lower", "({str}).strip()", "({str}).strip({str})",
            "({str}).lstrip('H')", "({str}).title()", "({str})[{int}:{int}]", "({str})[::-1]",
            "({str})[:{int}:2]", "({str})[-{pos}:]", "({str}).replace({str}, {str})",
            "({str})|replace('l', {str})", "({str}).split('l')|join({str})", "({any})|string",
            "({any})|tojson", "({any})|tojson(indent=2)", "({list})|join({str})", "({str}) * 2",
            "({str} if {bool} else {str})", "({str} if {bool})|default({str})", "({str})|indent(2)",
            "'%s=%s' % ({any}, {int})", "missing|default({str})", "({str})|reverse",
            "({dict}).get('C', {str})", "({str}).split()|first|default('none')", "({str}) or {str}",
            "({list})|map('string')|join('+')", "({str}).rstrip()|safe|string"],
    "int": ["i", "z", "n", "3", "-2", "({str})|length", "({list})|length", "({dict})|count",
            "{int} + {int}", "{int} - {int}", "{int} * {int}", "{int} // {pos}", "{int} % {pos}",
            "-({int})", "({int})|abs", "({int} if {bool} else {int})", "({str}).find({str})",
            "({str}).count('o')", "[{int}, {int}]|max", "({str})|int({int})", "({float})|int",
            "[{int}, {int}, {int}]|sum", "({bool}) + 1", "m|sum(attribute='n')|default(0)"],
    "pos": ["1", "2", "5", "i", "({int})|abs + 1"],
    "float": ["f", "g", "1e3", "{int} / {pos}", "{float} + {int}", "({float}) * {float}",
              "({float})|round(1)", "{float} // {pos}", "{float} % {pos}", "({int})|float", "1e16",
              "({str})|float(0.5)", "{pos} ** 0.5", "1 / 3"],
    "list": ["l", "ls", "el", "mix", "[{any}, {any}]", "{list} + {list}", "({list})[{int}:]",
             "({list})[::-1]", "({list})|reverse|list", "({str}).split()", "({str}).split({str}, 1)",
             "({str})|list", "range({pos})|list", "m|map(attribute='role')|list", "({dict}).keys()|list",
             "({dict})|dictsort", "({dict}).items()|list", "({list})|select('string')|list",
             "({list})|reject('none')|list", "m|selectattr('role', 'equalto', 'user')|list",
             "m|rejectattr('tool', 'defined')|map(attribute='n')|list", "({list})|map('string')|sort",
             "({list})|map('string')|unique|list", "({list} if {bool} else {list})", "ls|sort(reverse={bool})",
             "m|sort(attribute='content')", "({list}) * 2", "[{str}, {str}]|sort(case_sensitive=true)"],
    "dict": ["d", "ed", "m[0]", "m[2].tool", "{'k': {any}, 'q': {any}}", "dict({dict}, z={any})",
             "{{str}: {any}}", "({dict} if {bool} else {dict})"],
    "bool": ["t", "no", "{int} < {int}", "{float} >= {int}", "{any} == {any}", "{any} != {any}",
             "{str} in {str}", "{str} not in {list}", "{str} in {dict}", "not {bool}",
             "({bool} and {bool})", "({bool} or {bool})", "({any}) is string", "({any}) is none",
             "({any}) is mapping", "({any}) is not sequence", "({any}) is number", "({any}) is iterable",
             "({str}).startswith({str})", "({str}).endswith('d')", "({str}) is upper", "({int}) is odd",
             "({int}) is divisibleby({pos})", "{int} < {int} <= {int}", "missing is defined",
             "({any}) is boolean", "{str} < {str}", "({any}) is eq({any})", "({str}).isalnum()",
             "({any}) is integer", "({any}) is float", "({any}) is true", "({any}) is in {list}"],
}
KINDS = re.compile(r"\{(str|int|pos|float|list|dict|bool|any)\}")


def typed(r, kind, depth):
    if kind == "any":
        kind = r.choice(["str", "int", "float", "list", "dict", "bool", "none"])
    if kind == "none":
        return "none"
    choices = TYPED[kind]
    if depth <= 0:
        choices = [c for c in choices if "{" not in c]
        if kind in ("bool",):
            choices = ["t", "no", "true"]
    return KINDS.sub(lambda match: typed(r, match[1], depth - 1), r.choice(choices))


def expression(r, depth):
    if depth > 0 and r.random() < 0.6:
        return typed(r, "any", depth)
    if depth <= 0:
        return primary(r, depth)
    k = r.random()
    if k < 0.12:
        return primary(r, depth)
    if k < 0.3:
        return postfix_base(r, depth) + r.choice(METHODS)
    if k < 0.5:
        return postfix_base(r, depth) + "|" + r.choice(FILTERS)
    if k < 0.57:
        return postfix_base(r, depth) + r.choice([" is ", " is not "]) + r.choice(TESTS)
    if k < 0.8:
        op = r.choice(BINARY)
        return f"{expression(r, depth - 1)} {op} {expression(r, depth - 1)}"
    if k < 0.82:
        return f"{r.choice(['2', 'i', 'n', '0.5'])} ** {r.choice(['2', '3', '-1', '0.5', 'f'])}"
    if k < 0.85:
        return f"{primary(r, 0)} < {primary(r, 0)} <= {primary(r, 0)}"
    if k < 0.9:
        tail = "" if r.random() < 0.3 else f" else {expression(r, depth - 1)}"
        return f"({expression(r, depth - 1)} if {expression(r, depth - 1)}{tail})"
    if k < 0.94:
        return f"not {expression(r, depth - 1)}"
    if k < 0.96:
        return "-" + primary(r, 0)
    return "(" + expression(r, depth - 1) + ")"


def postfix_base(r, depth):
    return primary(r, depth - 1) if r.random() < 0.6 else "(" + expression(r, depth - 1) + ")"


def tag(r, text):
    return "{%" + r.choice(["", "", "", "-", "+"]) + f" {text} " + r.choice(["", "", "", "-", "+"]) + "%}"


def output(r, depth):
    return "{{" + r.choice(["", "", "-"]) + f" {expression(r, depth)} " + r.choice(["", "", "-"]) + "}}"


def space(r):
    return r.choice(["", "", "", " ", "\n", "\n\n", "  ", "\n  ", " x\n", "text", "\t", "é \n ", "\r\n"])


def body(r, depth, in_loop, in_macro):
    return "".join(space(r) + statement(r, depth, in_loop, in_macro)
                   for _ in range(r.randrange(1, 4))) + space(r)


def loop_output(r):
    return "{{ loop." + r.choice(["index", "index0", "first", "last", "length", "revindex",
                                  "revindex0", "previtem", "nextitem", "depth", "depth0",
                                  "cycle('a', 'b')", "changed(x)", "none"]) + " }}"


def statement(r, depth, in_loop, in_macro):
    k = r.random()
    if depth <= 0 or k < 0.3:
        if in_loop and r.random() < 0.4:
            return r.choice([loop_output(r), "{{ x }}", "{{ x ~ y }}"])
        return output(r, 1)
    inner = lambda loop=in_loop, macro=in_macro: body(r, depth - 1, loop, macro)
    if k < 0.45:
        text = tag(r, f"if {expression(r, 1)}") + inner()
        if r.random() < 0.3:
            text += tag(r, f"elif {expression(r, 1)}") + inner()
        if r.random() < 0.5:
            text += tag(r, "else") + inner()
        return text + tag(r, "endif")
    if k < 0.6:
        target = r.choice(["x", "x", "x", "x, y"])
        source = r.choice(["l", "ls", "m", "nest", "s", "el", "range(4)", "d.items()", "d", "u",
                           "d|dictsort", "l[::-1]", "missing", "i", "mix", "m|map(attribute='n')",
                           "nest[0], nest[0]"])
        test = r.choice(["", "", "", f" if {r.choice(['x', 'x is string', 'x != 1', 'not loop'])}"])
        text = tag(r, f"for {target} in {source}{test}") + inner(True)
        if r.random() < 0.3:
            text += tag(r, f"if {expression(r, 0)}") + tag(r, r.choice(["break", "continue"])) + tag(r, "endif")
        if r.random() < 0.3:
            text += tag(r, "else") + inner()
        return text + tag(r, "endfor")
    if k < 0.72:
        name = r.choice(["v", "v", "x", "ns.a", "ns.b", "v, y"])
        if r.random() < 0.25 and "," not in name:
            return tag(r, f"set {name}{r.choice(['', ' | upper', ' | trim | title'])}") + inner(False) + tag(r, "endset") + "{{ v }}"
        return tag(r, f"set {name} = {expression(r, 1)}") + "{{ v }}{{ ns.a }}"
    if k < 0.8 and not in_macro:
        name = r.choice(["mac", "mac2"])
        text = tag(r, f"macro {name}(a, b='B', c=i)") + "{{ a }}{{ b }}" + inner(False, True)
        if r.random() < 0.3:
            text += r.choice(["{{ varargs }}", "{{ kwargs }}", "{{ caller() }}", "{{ caller is defined }}"])
        text += tag(r, "endmacro")
        if r.random() < 0.25:
            return text + tag(r, f"call {name}({expression(r, 0)})") + inner(False, True) + tag(r, "endcall")
        args = r.choice(["", "1", "s, l", "b=2", "1, 2, 3", "1, 2, 3, 4", "1, q=2", "a=i, c=n", "*l", "**ed"])
        return text + "{{ " + name + f"({args})" + " }}"
    if k < 0.85:
        name = r.choice(["upper", "trim", "replace('e', 'E')|trim", "length"])
        return tag(r, "filter " + name) + inner(False) + tag(r, "endfilter")
    if k < 0.89:
        return tag(r, f"with v = {expression(r, 1)}, w = v") + "{{ w }}" + inner() + tag(r, "endwith")
    if k < 0.93:
        return "{#" + r.choice(["", "-", "+"]) + " note {{ x }} " + r.choice(["", "-", "+"]) + "#}"
    if k < 0.96:
        return tag(r, "raw") + " {{ x }} {% if %}" + space(r) + tag(r, "endraw")
    return tag(r, "generation") + inner(False) + tag(r, "endgeneration")


def conversation(r):
    roles = r.choice([["user"], ["user", "assistant", "user"], ["system", "user"],
                      ["system", "user", "assistant", "user", "assistant"], ["assistant"],
                      ["user", "user"], ["user", "tool", "user"], []])
    texts = ["Hi!", " padded ", "", "two\nlines\n", "Grüße 🙂", "{{ x }}", "<|im_end|>", "a\"b'c\\"]
    messages = [{"role": role, "content": r.choice(texts)} for role in roles]
    if r.random() < 0.2 and messages:
        r.choice(messages)["tool_calls"] = [
            {"id": r.choice(["abcdefghi", "x"]), "function": {"name": "f", "arguments": {"x": 1.5}}}]
    variables = {"messages": messages, "add_generation_prompt": r.random() < 0.7,
                 "bos_token": "<s>", "eos_token": "</s>"}
    if r.random() < 0.3:
        variables["tools"] = [{"type": "function", "function": {
            "name": "f", "description": "does é", "parameters": {"type": "object", "n": 1}, "return": 1}}]
    if r.random() < 0.3:
        variables["enable_thinking"] = r.random() < 0.5
    return variables


def folder_template(folder):
    jinja = pathlib.Path(folder) / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text()
    return json.loads((pathlib.Path(folder) / "tokenizer_config.json").read_text())["chat_template"]


def every_code_point():
    """Case mappings, classes and repr of every code point that Python's Unicode has assigned."""
    template = ("{{ s|upper }}{{ s|lower }}{{ s.title() }}{{ s.swapcase() }}{{ [s] }}"
                "{{ s.split() }}{{ s.splitlines() }}{% for c in s %}{{ [c.isupper(), c.islower(), "
                "c.isalpha(), c.isalnum(), c.isdigit(), c.isspace(), c is upper] }}{% endfor %}")
    for start in range(1, 0x30000, 256):
        chars = [chr(c) for c in range(start, start + 256)
                 if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
        yield template, {"s": " ".join(chars)}


# Results that are addresses or name Python's own types.
UNSTABLE = ("<generator", "<built-in", " object at 0x", "<bound method", "<macro", "<function",
            "reverseiterator", "<class", "<loopcontext", "reversed")
# The last: Jinja folds a slice of a literal number to nothing; a slice of any other is an error.
REFUSED = ("does not fit 64", "does not fit a 64", "is not supported", "is complex", "is too large",
           "cannot be sliced")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--n", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("--conversations", nargs="*", default=[])
    parser.add_argument("--unicode", action="store_true", help="also every code point")
    args = parser.parse_args()
    r = random.Random(args.seed)
    warnings.simplefilter("ignore", SyntaxWarning)
    cases = []
    for i in range(args.n):
        if i % 2:
            template = "{{ " + expression(r, r.choice([1, 2, 2, 3])) + " }}"
        else:
            template = "{% set ns = namespace(a=0) %}" + body(r, r.choice([1, 2, 3]), False, False)
        cases.append((template, VARIABLES))
    for folder in args.conversations:
        template = folder_template(folder)
        cases += [(template, conversation(r)) for _ in range(1000)]

    if args.unicode:
        cases += every_code_point()

    requests = "".join(json.dumps({"template": t, "variables": v, "now": template_reference.NOW}) + "\n"
                       for t, v in cases)
    process = subprocess.run([args.program], input=requests, capture_output=True, text=True)
    replies = [json.loads(line) for line in process.stdout.split("\n") if line]
    if process.returncode or len(replies) != len(cases):
        sys.exit(f"the program ended with {process.returncode} after {len(replies)} of {len(cases)}: "
                 f"{process.stderr[-2000:]}\n{cases[len(replies)][0] if len(replies) < len(cases) else ''}")
    same = both_fail = unstable = refused = different = 0
    for (template, variables), reply in zip(cases, replies):
        # a copy: Jinja's own indent changes a list that it is given
        text, error = template_reference.render(template, copy.deepcopy(variables))
        if text is not None and any(u in text.lower() for u in UNSTABLE):
            unstable += 1
        elif text is None and "error" in reply:
            both_fail += 1
        elif text is not None and text == reply.get("out"):
            same += 1
        elif any(x in reply.get("error", "") for x in REFUSED):
            refused += 1
        else:
            different += 1
            if different <= args.show:
                print(f"--- {template!r}\n  jinja2: {text!r} {error}\n  here:   {reply}"[:3000])
    print(f"{len(cases)} cases: {same} the same bytes, {both_fail} both an error, "
          f"{unstable} left out (print an address or a generator), {refused} refused by name, "
          f"{different} different")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
