"""Jinja2 set up as transformers sets it up for chat templates (chat_template_utils.py): the
reference that the C interpreter is compared with.  Needs jinja2 3.1."""
import datetime
import json

import jinja2
import jinja2.ext
import jinja2.sandbox

NOW = 1720000000  # 2024-07-03 in every time zone that matters


class Generation(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}: marks the assistant's tokens; the text is the same."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_text")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def strftime_now(format):
    return datetime.datetime.fromtimestamp(NOW).strftime(format)


ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception
ENVIRONMENT.globals["strftime_now"] = strftime_now


def render(template, variables):
    """(text, None) or (None, the error's sentence)."""
    try:
        text = ENVIRONMENT.from_string(template).render(**variables)
        text.encode()
        return text, None
    except Exception as e:  # whatever Python raises is an error of the template
        return None, f"{type(e).__name__}: {e}"
