"""Writes tests/golden/templates/{conversations,expressions}.json: what Jinja2, set up as
transformers does, renders.  Needs jinja2 3.1.

The templates are our own, each written in the style of a published one that its note names; the
control tokens are those of the models.  Run from anywhere; the time zone is set to UTC."""
import copy
import json
import os
import pathlib
import time

os.environ["TZ"] = "UTC"
time.tzset()

import template_reference  # noqa: E402  (after the time zone)

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "golden" / "templates"

TEMPLATES = {
    "embedded": json.loads((ROOT / "presets/model/tokenizer_config.json").read_text())["chat_template"],
    # Qwen1.5, ChatML: a default system turn, trailing prompt.
    "chatml-default-system": """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}
{% endif %}
{{ '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
{% endfor %}
{%- if add_generation_prompt is defined and add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
""",
    # Llama-2-chat: the system text goes into the first user turn; roles must alternate.
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set sys = false %}{% endif %}
{%- for m in rest -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate, user first') }}{%- endif -%}
{%- if loop.index0 == 0 and sys != false -%}
{%- set text = '<<SYS>>\\n' + sys + '\\n<</SYS>>\\n\\n' + m['content'] -%}
{%- else -%}{%- set text = m['content'] -%}{%- endif -%}
{%- if m['role'] == 'user' -%}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
{%- elif m['role'] == 'assistant' -%}{{ ' '  + text.strip() + ' ' + eos_token }}{%- endif -%}
{%- endfor -%}""",
    # Llama-3.1: date, tools in the first user turn or the system turn, tool calls.
    "llama3-tools": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set system_text = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_text = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "Functions:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_text }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    # Qwen3: last real question found backwards, thinking kept only behind it, switch for thinking.
    "qwen3-thinking": """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(looking=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.looking and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.looking = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and thought)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    # Mistral-7B-Instruct v0.3: counts turns in a namespace, tools before the last user turn.
    "mistral": """{%- set ns = namespace(i=0) %}
{%- set users = messages | selectattr("role", "equalto", "user") | list %}
{%- for message in messages if message.role != "system" %}
    {%- if message.role in ["user", "assistant"] and not message.tool_calls %}
        {%- if (message["role"] == "user") != (ns.i % 2 == 0) %}
            {{- raise_exception("after the system message, user and assistant must take turns") }}
        {%- endif %}
        {%- set ns.i = ns.i + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is defined and tools is not none and message == users[-1] %}
            {{- "[AVAILABLE_TOOLS] " + tools | tojson + "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {%- for call in message.tool_calls %}
            {%- set out = call.function | tojson %}
            {{- out[:-1] }}
            {%- if not call.id is defined or call.id | length != 9 %}
                {{- raise_exception("a call's id has 9 characters") }}
            {%- endif %}
            {{- ', "id": "' + call.id + '"}' }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- elif message["role"] in ("tool", "system") %}
        {{- "[" ~ message.role | upper ~ "] " ~ message.content }}
    {%- else %}
        {{- raise_exception("unknown role " + message.role) }}
    {%- endif %}
{%- endfor %}
""",
    # Gemma 2: no system role, the assistant is called model.
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}""",
    # Gemma 3: content may be a list of parts; the system text leads the first user turn.
    "gemma-parts": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set lead = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set lead = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set lead = "" -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' + (lead if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- else -%}{{ '<' ~ item.type ~ '>' }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("no such content") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model\\n'}}{%- endif -%}
""",
    # Zephyr: blocks alone on their lines, tokens written out.
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    # Phi-3: elif on adjacent lines, the end token at the end of a finished conversation.
    "phi3": """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}""",
    # Command R: macros that call themselves to print a schema's types, defaults, dictsort.
    "command-r-macros": """{%- macro type_of(param) -%}
    {%- set names = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} -%}
    {%- if param.type in names -%}{{ names[param.type] }}
    {%- elif param.type == "array" -%}List[{{ type_of(param['items']) if 'items' in param else 'Any' }}]
    {%- elif param.type == "object" -%}Dict[str, {{ type_of(param.additionalProperties) if param.additionalProperties is defined else 'Any' }}]
    {%- else -%}Any{%- endif -%}
{%- endmacro -%}
{%- macro signature(tool, indent_by=4, sep=', ') -%}
def {{ tool.name }}({% for name, param in tool.parameters.properties | dictsort -%}
{{ name }}: {{ type_of(param) }}{% if name not in (tool.parameters.required or []) %} = None{% endif %}{{ sep if not loop.last }}
{%- endfor %}):
{{ (tool.description or 'No description') | indent(indent_by, true) }}
{% endmacro -%}
{{ bos_token }}{% if tools %}
# Tools
{% for tool in tools %}{{ signature(tool.function, sep='; ') }}{% endfor %}
{%- endif %}
{%- set sections = {} -%}
{% for message in messages -%}
<|START_OF_TURN_TOKEN|>{{ {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'}.get(message.role, '<|SYSTEM_TOKEN|>') }}{{ message.content }}<|END_OF_TURN_TOKEN|>
{%- endfor -%}
{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}""",
    # SmolLM3-like: generation blocks, call blocks, filter blocks, set blocks, break and continue.
    "blocks": """{% macro turn(role, strip=true) %}
<|{{ role }}|>
{% set body %}{{ caller() }}{% endset %}
{{ body | trim if strip else body }}
{% endmacro %}
{% for message in messages %}
    {% if message.role == 'tool' %}{% continue %}{% endif %}
    {% if loop.index > 4 %}{% break %}{% endif %}
    {% if message.role == 'assistant' %}
{% generation %}
{{ message.content }}
{% endgeneration %}
    {% else %}
        {% call turn(message.role) %}
        {% filter replace('<', '&lt;') | replace('>', '&gt;') %}
        {{ message.content }}
        {% endfilter %}
        {% endcall %}
    {% endif %}
{% else %}
nothing
{% endfor %}
{%+ if add_generation_prompt %}
{% raw %}{{ assistant }}{% endraw %}
{%+ endif +%}
{# the end #}
""",
    # OLMo and Tulu: eos only behind finished answers, whitespace kept.
    "tulu": """{{ bos_token }}{% for message in messages %}{{ '<|' ~ message['role'] ~ '|>\\n' }}{% if message['role'] == 'assistant' and not loop.last %}{{ message['content'] ~ eos_token ~ '\\n' }}{% elif message['role'] == 'assistant' %}{{ message['content'] ~ eos_token }}{% else %}{{ message['content'] ~ '\\n' }}{% endif %}{% if loop.last and add_generation_prompt and message.role != 'assistant' %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}""",
    # DeepSeek-R1: state in a namespace, text behind </think> only.
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=true, system='', n_tools=0) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system = ns.system + message['content'] %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}{%- for message in messages %}{%- if message['role'] == 'user' %}{{ '<|User|>' + message['content'] }}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none and not message.tool_calls %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<|Assistant|>' + content + eos_token }}{%- endif %}{%- if message['role'] == 'tool' %}{% set ns.n_tools = ns.n_tools + 1 %}{{ '<|tool ' ~ ns.n_tools ~ '|>' ~ message.content }}{%- endif %}{%- endfor -%}{% if add_generation_prompt and messages[-1].role != 'assistant' %}{{ '<|Assistant|><think>\\n' }}{% endif %}""",
}

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Current weather\nin a city – °C.",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "days": {"type": "array", "items": {"type": "integer"}}, "city": {"type": "string"},
        "extra": {"type": "object", "additionalProperties": {"type": "number"}}}}}}]


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = {"id": "abcdefghi", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": [1, 2.5, None, True]}}}
CONVERSATIONS = [
    ("one question", [turn("user", "Hello!")], {}),
    ("no prompt", [turn("user", "Hello!")], {"add_generation_prompt": False}),
    ("system", [turn("system", "Be brief."), turn("user", "  Why?  ")], {}),
    ("three turns", [turn("user", "Hi"), turn("assistant", " Hello. "), turn("user", "And?\n")], {}),
    ("answered", [turn("system", " S "), turn("user", "Q"), turn("assistant", "A")],
     {"add_generation_prompt": False}),
    ("two users", [turn("user", "a"), turn("user", "b")], {}),
    ("assistant first", [turn("assistant", "a"), turn("user", "b")], {}),
    ("none", [], {}),
    ("Unicode", [turn("user", "Grüße an 漢字 🙂 — ‘ok’\u00a0\u3000")], {}),
    ("special text", [turn("user", "<|im_end|> {{ x }} {% if %} [/INST] & < > \" ' \\n")], {}),
    ("thinking", [turn("user", "1+1?"), turn("assistant", "<think>\nsum\n</think>\n\n2"),
                  turn("user", "+1?"), turn("assistant", "3", reasoning_content="\nadd\n")],
     {"add_generation_prompt": False}),
    ("no thinking", [turn("user", "1+1?")], {"enable_thinking": False}),
    ("tools", [turn("system", "Use tools."), turn("user", "Weather?")], {"tools": TOOLS}),
    ("tool call", [turn("user", "Weather?"), turn("assistant", "", tool_calls=[CALL]),
                   turn("tool", "12 °C", tool_call_id="abcdefghi"), turn("assistant", "Cold."),
                   turn("user", "Thanks")], {"tools": TOOLS}),
    ("bad call id", [turn("user", "W?"), turn("assistant", "", tool_calls=[{**CALL, "id": "x"}])], {}),
    ("parts", [turn("system", [{"type": "text", "text": "S"}]),
               turn("user", [{"type": "image"}, {"type": "text", "text": " what? "}])], {}),
    ("unknown role", [turn("narrator", "Once."), turn("user", "Go on.")], {}),
    ("no content", [turn("user", None), {"role": "assistant"}], {}),
    ("numbers", [turn("user", 1), turn("assistant", 2.0), turn("user", True)], {}),
    ("long", [turn(("user", "assistant")[i % 2], f"turn {i}") for i in range(7)], {}),
]

# One expression a line; the comments name the parts of the language.
EXPRESSIONS = r"""
# attributes, items, slices
d.a
d['a']
d.missing
d['missing']
d.b.c
d['b']['c']
l[0]
l[-1]
l[9]
l['0']
l.0
s[0]
s[-1]
s[99]
u[2]
l[1:]
l[:1]
l[::-1]
l[::2]
l[-2:]
l[5:]
l[:-1]
l[2:0:-1]
s[1:3]
s[::-1]
u[::-1]
u[1:3]
u[-2:]
t[1:]
range(9)[2:8:2]
range(9)[::-3]
l[none:2]
l[::0]
l['a':]
missing[1:]
d[1:]
missing.x
missing['x']
none.x
none['x']
(1).x
d.items
d['items']
{'items': 1}.items
{'items': 1}['items']
s.__class__
s['__class__']
d.__init__
d._x
d['_x']
l.append
d.update
l.append(1)
d.update({})
d.pop('a')
{'k': 1}['k']
{1: 'x'}[1]
{1: 'x'}[1.0]
{1: 'x'}[true]
# arithmetic
1 + 2
1 - 2
2 * 3
7 / 2
6 / 2
7 // 2
-7 // 2
7 // -2
-7 % 3
7 % -3
7.5 // 2
-7.5 % 2
2 ** 3
2 ** -1
2 ** 0.5
2 ** 3 ** 2
-2 ** 2
1 / 0
1 // 0
1 % 0
1.0 / 0
1 + 2 * 3
(1 + 2) * 3
1 - 2 - 3
2 - -1
+3
-l
-s
- 1
1 + 1.0
true + 1
true * 'ab'
none + 1
1 + '1'
'1' + 1
'a' + 'b'
'a' 'b'
'a' 'b' 'c'
'a' * 3
3 * 'ab'
'a' * -1
'a' * 1.0
[1] + [2]
[1] + (2,)
(1,) + (2,)
[0] * 3
{} + {}
9223372036854775807
1e3
1.5e-7
1e16
1e15
123456789.0
0.1 + 0.2
1_000
0x1F
0o17
0b101
1e400
2.0
100.0
1e22
1.0e-4
0.00001
# comparison, and, or, not, in
1 == 1.0
1 == true
'1' == 1
[1] == [1]
[1] == (1,)
{'a': 1, 'b': 2} == {'b': 2, 'a': 1}
none == false
missing == missing
missing == none
1 != 2
'a' < 'b'
'a' < 'B'
[1, 2] < [1, 3]
(1,) < (1, 0)
1 < 'a'
none < 1
[] < {}
1 < 2 < 3
1 < 3 < 2
3 > 2 > 1
1 < 2 > 1
1 == 1 in [1]
1 in [1] == true
2 >= 2
2 <= 1
x < 10
1 and 2
0 and 2
'' or 'x'
'a' or 'x'
none or false
not 1
not ''
not not 5
not missing
1 and not 0
false or missing
[] or {}
true and true or false
'a' in 'abc'
'' in ''
'z' not in 'abc'
1 in l
5 in l
'a' in d
'z' in d
1 in 'a'
1 in missing
'a' in missing
1 in none
1 in 5
[1] in [[1]]
[1] in d
'é' in u
2 in range(3)
('a', 1) in d.items()
none in [none]
missing in [missing]
# ~, inline if
1 ~ 2
'a' ~ none ~ true
missing ~ 'x'
[1] ~ {'a': 1}
1.0 ~ ''
'x' if true
'x' if false
'x' if false else 'y'
('x' if 0) is defined
1 if 0 else 2 if 0 else 3
(1 if true else 2) + 3
['a' if false]
# literals and printing
[]
()
{}
(1,)
(1, 2)
[1, 'a', none, true, 1.5]
{'k': 1, 2: [3]}
{'a': {'b': ()}}
'it\'s'
"it's"
['it\'s']
["it's \"x\""]
['\n\t\\']
['é', '\u200b', '\x7f', '\U0001F642']
'\x41\u00e9\101'
'\q'
none
true
True
None
False
[missing]
1, 2
-0.0
1.10
[1,]
{'a': 1,}
range(3)
range(1, 4)
range(0, 9, 3)
range(3, 0, -1)
range(0)
range(3)|list
range(5)[1]
range(100001)
range(1, 2, 0)
range('a')
dict(a=1)
dict({'a': 1}, b=2)
dict([(1, 2)])
dict([1])
namespace(a=1).a
namespace(a=1).b
namespace(a=1)
namespace({'z': 1}).z
# filters on text
s|upper
s|lower
s|title
s|capitalize
'ß'|upper
'ΑΣ ΑΣΑ'|lower
"it's a-b (c) [d]"|title
'ǆ'|title
'ﬁx'|capitalize
5|upper
none|upper
missing|upper
'  a b '|trim
'xxaxx'|trim('x')
'\u2003a\u00a0'|trim
1|trim
s|replace('l', 'L')
s|replace('l', 'L', 1)
'aaa'|replace('', '-')
111|replace(1, 2)
s|replace('l')
s|reverse
'a\nb\n\nc'|indent
'a\nb'|indent(2, true)
'a\n\nb'|indent(2, blank=true)
'a\nb'|indent(width='--')
''|indent(first=true)
1|indent
'<a>'|safe
('<a>'|safe) + '<b>'
['x'|safe]
1|string
none|string
[1]|string
# filters on numbers
'42'|int
' 42 '|int
'4_2'|int
'4.7'|int
'x'|int
'x'|int(7)
'0x1f'|int(base=16)
'1f'|int(0, 16)
'101'|int(base=2)
none|int
[]|int(3)
4.9|int
-4.9|int
true|int
''|int
missing|int
'1e3'|int
'1.5'|float
'x'|float
'x'|float(2)
none|float
'inf'|float
'nan'|float
' -1.5e3 '|float
3|float
-5|abs
-5.5|abs
'a'|abs
2.5|round
3.5|round
2.675|round(2)
1234|round(-2)
1250|round(-2)
2.1|round(method='ceil')
-2.1|round(0, 'floor')
5|round
1|round(method='x')
1.15|round(1, 'ceil')
# filters on sequences
l|length
s|length
u|length
d|length
missing|length
none|length
5|length
d|count
range(4)|length
l|first
l|last
[]|first
s|first
s|last
u|last
''|last
d|first
d|last
missing|first
none|first
range(3)|last
l|list
s|list
d|list
none|list
l|reverse|list
d|reverse|list
(1, 2)|reverse|list
5|reverse
[3, 1, 2]|sort
['b', 'A', 'a', 'B']|sort
['b', 'A', 'a']|sort(case_sensitive=true)
[1, 2]|sort(reverse=true)
missing|last
missing|reverse|list
[1, 'a']|sort
m|sort(attribute='n')|map(attribute='n')|list
m|sort(attribute='role,n', reverse=true)|map(attribute='n')|list
s|sort
d|sort
[1, 1, 2]|unique|list
['a', 'A', 'b']|unique|list
['a', 'A']|unique(case_sensitive=true)|list
m|unique(attribute='role')|list|length
[1, 1.0, true]|unique|list
[[1]]|unique|list
[1, 2]|sum
[1.5, 2]|sum
['a']|sum
m|sum(attribute='n')
[1]|sum(start=10)
[]|sum
[3, 1]|min
[3, 1]|max
['b', 'A']|min
['b', 'A']|max(case_sensitive=true)
[]|max
m|max(attribute='n')
[1, 'a']|max
[1, 'a', none]|join
[1, 2]|join(', ')
m|join('-', attribute='role')
'abc'|join('.')
d|join(',')
[]|join
[missing]|join('x')
none|join
d|items|list
missing|items|list
l|items|list
d|dictsort
{'B': 2, 'a': 1}|dictsort
{'B': 2, 'a': 1}|dictsort(true)
{'b': 1, 'a': 2}|dictsort(by='value')
{'b': 1, 'a': 2}|dictsort(reverse=true)
l|dictsort
d|dictsort(by='x')
l|map('string')|list
['a', 'b']|map('upper')|join
m|map(attribute='role')|list
m|map(attribute='tool.name')|list
m|map(attribute='n', default=0)|list
m|map(attribute='zz', default='-')|list
l|map|list
['a1', 'b1']|map('replace', '1', '2')|list
[[1, 2]]|map('first')|list
[[1, 2]]|map(attribute='1')|list
[[1, 2]]|map(attribute=0)|list
missing|map('upper')|list
[0, 1, '', 'a']|select|list
[0, 1, none]|reject|list
[1, 2, 3]|select('odd')|list
[1, 2, 3]|select('gt', 1)|list
[1, 'a']|select('string')|list
[1, 'a']|reject('string')|list
m|selectattr('n')|list|length
m|selectattr('role', 'equalto', 'user')|map(attribute='n')|list
m|selectattr('role', 'in', ['user'])|list|length
m|rejectattr('role', '==', 'user')|map(attribute='n')|list
m|selectattr('tool', 'defined')|list|length
m|selectattr('tool.name', 'none')|list
m|selectattr|list
[1]|select('nope')|list
('x' if [0]|select else 'y')
# default, tojson
missing|default('x')
missing|d
missing|d('x')
''|default('x')
''|default('x', true)
none|default('x')
none|d('x', boolean=true)
missing|default(default_value=3)
0|default(5, true)
d|tojson
l|tojson
s|tojson
u|tojson
u|tojson(ensure_ascii=true)
none|tojson
true|tojson
1.0|tojson
1e100|tojson
'"\\/\b\f\n\r\t\u0001\u007f'|tojson
'<&>'|tojson
{'b': 1, 'a': [1, {}]}|tojson(indent=2)
{'a': []}|tojson(indent=0)
[1, 2]|tojson(separators=(',', ':'))
{'b': 1, 'a': 2}|tojson(sort_keys=true)
(1, 2)|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
{(1, 2): 3}|tojson
missing|tojson
range(2)|tojson
[missing]|tojson
[1, [2]]|tojson(indent='\t')
'inf'|float|tojson
# tests
missing is defined
s is defined
d.zz is defined
missing is undefined
s is string
1 is string
none is none
missing is none
l is iterable
s is iterable
1 is iterable
missing is iterable
d is mapping
l is mapping
false is false
0 is false
true is true
1 is true
l is sequence
s is sequence
d is sequence
d.items() is sequence
range(2) is sequence
missing is sequence
1 is sequence
true is boolean
1 is boolean
1 is number
true is number
'1' is number
1 is integer
true is integer
1.0 is integer
1.0 is float
1 is float
1 is eq 1
1 is equalto(1.0)
1 is ==(1)
'a' is in 'abc'
1 is in [1]
1 is ne 2
1 is lt 2
2 is gt 1
2 is ge 2
1 is le 0
3 is odd
2 is even
4 is divisibleby 2
4 is divisibleby(3)
none is sameas none
s is not string
1 is not none
not 1 is none
'a' is lower
'A' is upper
'1' is upper
s.upper is callable
s is callable
range is callable
1 is nope
1 is eq
1 is defined and 2 is defined
missing is defined or 3
s is string if true else 0
# methods
' a '.strip()
'xax'.strip('x')
'abcba'.strip('ab')
' a '.lstrip()
' a '.rstrip()
'\u3000a\x1c'.strip()
s.split()
' a  b '.split()
'a,b,,c'.split(',')
'a b c'.split(' ', 1)
'a b c'.split(none, 1)
' a  b  c '.split(none, 1)
'abc'.split('')
''.split()
''.split(',')
'a,b,c'.rsplit(',', 1)
'  a b '.rsplit(none, 1)
'a\nb\r\nc'.splitlines()
'a\n'.splitlines(true)
s.startswith('He')
s.startswith(('x', 'H'))
s.startswith('e', 1)
s.endswith('d')
s.startswith(1)
s.replace('l', 'L')
s.replace('l', 'L', 1)
s.replace(1, 2)
s.upper()
s.lower()
"it's".title()
s.capitalize()
s.swapcase()
','.join(['a', 'b'])
','.join([1])
','.join('ab')
s.find('l')
s.find('z')
u.find('ß')
s.rfind('l')
s.index('l')
s.index('z')
s.count('l')
s.count('')
'a'.isdigit()
'12'.isdigit()
'²'.isdigit()
'aé'.isalpha()
'a1'.isalnum()
' \n'.isspace()
''.isspace()
'AB'.isupper()
'ab1'.islower()
'7'.zfill(3)
'-7'.zfill(4)
'a'.center(4, '*')
'ab'.center(5)
'a'.ljust(3)
'a'.rjust(3, '.')
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'abc'.removeprefix('a')
'abc'.removesuffix('bc')
s.nope
s.nope()
s.upper(1)
d.items()
d.keys()
d.values()
d.items()|list
d.get('a')
d.get('zz')
d.get('zz', 7)
d.get([])
l.count(1)
l.index(2)
l.index(99)
l.index|length
d.copy()
(1, 1).count(1)
# calls and formats
'%s' % 5
'%s-%s' % (1, 'a')
'%d' % 3.7
'%05.1f|' % 2.25
'%5s|%-5s|' % ('a', 'b')
'%+d % d %i' % (1, 2, 3)
'%.2s|%3d' % ('abc', 7)
'%(a)s' % {'a': 1}
'%%'
'%%' % ()
'%s' % (1, 2)
'%s %s' % 1
'%r' % 'a'
'%z' % 1
'o' % missing
'%s' % missing
'a' % [1]
'a' % 1
'a' % d.items()
s()
missing()
none()
raise_exception('stop')
raise_exception()
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y')
strftime_now('')
range(*[1, 4])
dict(**{'a': 1})
dict(a=1, a=2)
range(stop=3)
# wrong
1 +
(1
[1
{1}
{'a'}
'a
1 2
if
{{
a b
1 ! 2
a.
a[
a[]
a is
a is not
f(a=1, 2)
@
`a`
s|nofilter(1)
s|nofilter
'\x4'
'\ud800'
""".strip("\n")

VARIABLES = {
    "s": "Hello World", "u": "Grüße 漢字🙂", "l": [1, 2, 3], "t": "tuple", "x": 5,
    "d": {"a": 1, "b": {"c": [1]}, "_x": 2},
    "m": [{"role": "user", "n": 2}, {"role": "assistant", "n": 1, "tool": {"name": None}}, {"role": "user", "n": 3}],
}


UNSTABLE = ("<generator", "<built-in", " object at 0x", "<bound method", "<class")


def render_expressions():
    rendered = []
    for expression in EXPRESSIONS.split("\n"):
        if expression.startswith("# "):
            continue
        text, error = template_reference.render("{{ " + expression + " }}", copy.deepcopy(VARIABLES))
        if text is None:
            rendered.append({"expression": expression, "error": True})
        elif not any(x in text for x in UNSTABLE):
            rendered.append({"expression": expression, "out": text})
    return rendered


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rendered = {}
    for name, template in TEMPLATES.items():
        rendered[name] = []
        for label, messages, more in CONVERSATIONS:
            variables = {"messages": copy.deepcopy(messages), "add_generation_prompt": True,
                         "bos_token": "<s>", "eos_token": "</s>", **copy.deepcopy(more)}
            text, error = template_reference.render(template, variables)
            rendered[name].append(text)
    conversations = [{"label": label, "variables": {
        "messages": messages, "add_generation_prompt": True, "bos_token": "<s>",
        "eos_token": "</s>", **more}} for label, messages, more in CONVERSATIONS]
    write("conversations.json", {"now": template_reference.NOW, "templates": TEMPLATES,
                                 "conversations": conversations, "rendered": rendered})
    expressions = render_expressions()
    write("expressions.json", {"now": template_reference.NOW, "variables": VARIABLES,
                               "expressions": expressions})
    errors = sum(t is None for r in rendered.values() for t in r)
    print(f"{len(TEMPLATES)} templates x {len(CONVERSATIONS)} conversations ({errors} errors), "
          f"{len(expressions)} expressions ({sum('error' in e for e in expressions)} errors)")


def write(name, value):
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
