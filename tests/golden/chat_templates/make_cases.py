"""Writes cases.json: what Jinja2 renders, in the environment that Hugging Face's transformers
gives to chat templates. Needs the jinja2 package (3.1); run it after changing a case."""
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
VARIABLES = {
    "bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None,
    "add_generation_prompt": True, "n": None, "xs": [3, 1, 2], "words": ["b", "A", "c", "a"],
    "d": {"k": "v", "z": [1, {"q": 2.5}]}, "s": "Hello W\u00f6rld", "e": [], "pi": 3.14159,
    "people": [{"name": "Ada", "age": 36, "job": {"title": "Countess"}}, {"name": "Bob", "age": 7}],
    "text": " <think>\nhm\n</think>\n\nanswer\n ",
}

# One line each: the language.
LINES = r"""
a{{ 1 }}b{# no #}c
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }}
{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1e3 }} {{ 1e16 }} {{ 1.5e-7 }} {{ 1_000 }} {{ 0.1 + 0.2 }} {{ 100000.0 }}
{{ [1, 'a', none, true, 1.5, "it's", 'q"', "b\\n\n"] }} {{ (1,) }} {{ (1, 2) }} {{ {'a': [1], 'b': {}} }}
{{ 'a' 'b' "c" }} {{ "\u00e9\x41\t\\'" }} {{ '\d' }}
{{ 1 if xs else 2 }} {{ 1 if e else 2 }} {{ 'x' if e }}| {{ 'a' if 0 else 'b' if 1 else 'c' }}
{{ not e and xs }} {{ e or 'z' }} {{ 0 and 1 }} {{ not 1 == 2 }} {{ 1 < 2 }} {{ 'a' < 'b' }} {{ 2 >= 3 }} {{ 1 == 1.0 == true }}
{{ 1 in xs }} {{ 9 not in xs }} {{ 'k' in d }} {{ 'ell' in s }} {{ 'x' in missing }} {{ not 'x' in s }}
{{ xs[0] }} {{ xs[-1] }} {{ xs[9] }}| {{ s[0] }} {{ s[-4] }} {{ d.k }} {{ d['z'][1].q }} {{ d.z.0 }} {{ d.nope }}|
{{ xs[1:] }} {{ xs[:-1] }} {{ xs[::-1] }} {{ s[6:] }} {{ s[-3:] }} {{ s[::2] }} {{ s[5:2] }}| {{ s[:100] }} {{ xs[2:0:-1] }}
{{ missing }}| {{ missing is defined }} {{ missing is undefined }} {{ n is none }} {{ n is not none }} {{ s is string }} {{ xs is iterable }} {{ d is mapping }} {{ xs is sequence }}
{{ 3 is odd }} {{ 3 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is number }} {{ true is boolean }} {{ 1.0 is float }} {{ 1 is integer }} {{ true is true }} {{ s is eq s }} {{ 1 is in xs }}
{{ 'a' is lower }} {{ 'A' is upper }} {{ 1 is sameas 1 }} {{ range is callable }} {{ strftime_now is defined }} {{ 2 is gt 1 }}
{{ a | default('x') }} {{ '' | default('x') }}| {{ '' | default('x', true) }} {{ n | d('y', boolean=true) }} {{ missing | length }}
{{ xs | length }} {{ s | length }} {{ d | count }} {{ xs | first }} {{ xs | last }} {{ e | first }}| {{ xs | sum }} {{ xs | min }} {{ xs | max }} {{ words | max }}
{{ xs | join(', ') }} {{ xs | join }} {{ people | join('/', attribute='name') }} {{ 'abc' | join('-') }}
{{ '  a b ' | trim }}| {{ 'xxaxx' | trim('x') }} {{ s | upper }} {{ s | lower }} {{ 'hello wORLD-foo' | title }} {{ 'hELLO w' | capitalize }}
{{ s | replace('l', 'L') }} {{ s | replace('l', 'L', 1) }} {{ xs | reverse | list }} {{ 'abc' | reverse }}
{{ xs | sort }} {{ words | sort }} {{ words | sort(reverse=true) }} {{ words | sort(case_sensitive=true) }} {{ people | sort(attribute='age') | map(attribute='name') | list }}
{{ words | unique | list }} {{ [1, 1, 2] | unique | list }} {{ people | map(attribute='job', default='none') | list }} {{ words | map('upper') | join }}
{{ xs | select('odd') | list }} {{ xs | reject('equalto', 3) | list }} {{ people | selectattr('age', 'gt', 10) | map(attribute='name') | first }} {{ people | rejectattr('job') | list | length }} {{ [0, 1, ''] | select | list }}
{{ d | items | list }} {{ d | dictsort }} {{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.get('k') }} {{ d.get('x') }} {{ d.get('x', 'y') }}
{{ d | tojson }} {{ s | tojson }} {{ people | tojson(indent=2) }} {{ "<&'\n\x01\u2028" | tojson }} {{ [] | tojson(indent=1) }} {{ [1.0, none, true] | tojson }}
{{ '12' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ 3.9 | int }} {{ '2.5' | float }} {{ -3 | abs }} {{ 2.567 | round(1) }} {{ 2.5 | round }} {{ 2.1 | round(method='ceil') }} {{ true + 1 }}
{{ 'a\nb\n\nc' | indent }}| {{ 'a\nb' | indent(2, true) }}| {{ 'a\nb' | indent(width='>>') }} {{ 'a\u2028b\x85c\x0bd\r\ne\x1cf' | indent(1) }} {{ 'a\u2029b\x0cc\n'.splitlines() }} {{ '<a href="x">' | e }} {{ 'one two  three' | wordcount }} {{ s | safe }} {{ 5 | string }} {{ 'ab' | list }}
{{ ' a '.strip() }}| {{ 'xay'.strip('xy') }} {{ ' a'.lstrip() }} {{ 'a '.rstrip() }}| {{ 'a,b,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b c'.split(None, 1) }}
{{ s.startswith('He') }} {{ s.endswith(('x', 'ld')) }} {{ s.replace('l', '') }} {{ s.upper() }} {{ "they're bill's".title() }} {{ 'aXb'.lower() }} {{ s.find('W') }} {{ s.find('r') }} {{ s.rfind('l') }} {{ 'aaa'.count('a') }} {{ ','.join(words) }}
{{ 'a\nb\r\nc'.splitlines() }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'aB'.capitalize() }} {{ 'aB'.isupper() }} {{ 'ab' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ 'aaa'.replace('a', 'b', 2) }}
{{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ range(3, 0, -1) | list }} {{ dict(a=1) }} {{ dict(a=1).a }}
{{ text.split('</think>')[-1].lstrip('\n') }}{{ text.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ x }};{% endfor %}
{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}{% for x in 'ab' %}{{ loop.cycle('1', '2') }}{{ x }}{% endfor %}{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}
{% for x in e %}a{% else %}none{% endfor %} {% for x in missing %}a{% else %}none{% endfor %} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d %}{{ k }}{% endfor %}
{% for x in xs if x > 1 %}{{ loop.index }}{{ x }}{% endfor %} {% for (a, b) in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %} {% for x in 1, 2 %}{{ x }}{% endfor %}
{% set ns = namespace(go=true) %}{% for x in [1, 2, 3] if ns.go %}{{ x }}{% set ns.go = x < 2 %}{% endfor %} {% set ns.go = true %}{% for x in [1, 2, 3] if ns.go %}{{ x }}{{ loop.last }}{% set ns.go = false %}{% endfor %}
{% for x in xs if x > 1 %}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.nextitem }}{{ loop.previtem }};{% else %}none{% endfor %} {% for x in xs if x > 7 %}{{ x }}{% else %}none{% endfor %} {% macro f(l) %}{{ l.last }}{{ l.length }}{% endmacro %}{% for x in xs if x < 3 %}{% for y in [1] %}{{ f(loop) }}{% endfor %}{{ f(loop) }}{% endfor %}
{% for x in range(9) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in xs %}{% for y in words %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %} {% for x in xs %}{% set outer = loop %}{% for y in 'ab' %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% set x = 1 %}{% for i in xs %}{% set x = i %}{{ x }}{% endfor %}{{ x }} {% if true %}{% set x = 9 %}{% endif %}{{ x }} {% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set ns = namespace(x=0, f=false) %}{% for i in xs %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.f }}{{ ns['x'] }}{{ ns.nope }}|
{% set t %}a{{ 1 }}{% endset %}{{ t | length }}{{ t }} {% set u | upper %}abc{% endset %}{{ u }} {% filter upper | trim %} a{{ s }} {% endfilter %}
{% macro m(a, b='x', c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 2) }} {{ m(1, c=3) }} {{ m() }}| {% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }} {{ f(0) | length }}
{% set g = 5 %}{% macro q() %}{{ g }}{{ xs[0] }}{% set g = 6 %}{{ g }}{% endmacro %}{{ q() }}{{ g }}
{% raw %}{{ a }}{% if %}{% endraw %} {%- raw -%} {{ b }} {%- endraw -%} x
{% generation %}g{% endgeneration %}{% if n %}1{% elif xs %}2{% else %}3{% endif %}
{{ {'}}': 1}['}}'] }}{{ '{{' }}{{ "%}" }}
{{ (1, 2)[0] }}{{ [[1, 2], [3]][0][1] }}{{ ('a' + 'b').upper() }}{{ 'a'.upper().lower() }}{{ -xs[0] }}{{ - 2 ** 2 }}{{ 1 - -1 }}{{ not not 1 }}
{{ strftime_now('%Y-%m-%d %H:%M %d %b %Y') }}
{{ 'x' is defined and 'y' }} {{ n is none or missing.x }} {{ 1 + 1 is number }} {{ 'a' ~ 'b' | upper }} {{ ('a' ~ 'b') | upper }} {{ -1 | abs }}
{{ messages | map(attribute='role') | join(',') }} {{ messages[1:] | length }} {{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }} {{ (messages | last).role }} {{ messages[-1]['content'] | trim + '!' }}
{{ none | string }} {{ [none] | string }} {{ '' }}| {{ true }} {{ [missing] | length }} {{ none == missing }} {{ missing == missing }} {{ [1, 2] == [1, 2] }} {{ (1, 2) == [1, 2] }} {{ d == d }}
{{ [1, [2, [3]]] | tojson }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ d | tojson(separators=(',', ':')) }} {{ 1e20 }} {{ 12345678.9 }} {{ 1.0 | int }} {{ pi | round(2) }}
""".strip("\n").split("\n")

# Several lines each: white space, and templates of the shapes that models have.
BLOCKS = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}  \n  b\n  {% endif %}\nc\n\n",
    "a  {%- if true -%}  \n b {{- 1 -}}  c {%- endif %} d\n",
    "  {%+ if true +%}\n x {% endif +%}\ny",
    "{# one #}\n  {# two #}\nx {#- three -#} y\n",
    "a {{ 1 }}\n{{ 2 }}\n  {{ 3 }}\n\n{{ 4 -}}\n\n z",
    "{% for m in messages %}\n{{ m.role }}\n{% endfor %}\n\n\nend\n\n",
    "\r\n{% if 1 %}\r\na\r\n{% endif %}\rb\r\n",
    "x\n\n  \t{% set a = 1 %}\n\n{{ a }}  {% set b = 2 %} {{ b }}",
    # ChatML
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}",
    # ChatML with a default system message
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    # Instructions in brackets, roles alternate
    """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    # Headers, a date, tools as JSON
    """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- for t in people %}
    {{- t | tojson(indent=4) }}
    {{- "\\n\\n" }}
{%- endfor %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    # Thoughts are cut from earlier answers
    """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    # Macros that write types
    """{%- macro json_type(spec) -%}
{%- if spec is string -%}"{{ spec }}"
{%- elif spec is mapping -%}{
{%- for key, value in spec.items() -%}
{{ key }}: {{ json_type(value) }}{% if not loop.last %}, {% endif %}
{%- endfor -%}}
{%- elif spec is iterable and spec is not string -%}[{% for x in spec %}{{ json_type(x) }}{{ ", " if not loop.last }}{% endfor %}]
{%- else -%}{{ spec }}
{%- endif -%}
{%- endmacro -%}
{{ json_type(people) }}
{{ json_type(d) }}""",
]


class Generation(jinja2.ext.Extension):  # the tag is transparent
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def environment(now):
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    import datetime
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = moment.strftime
    return env


def main():
    now = 1700000000
    env = environment(now)
    cases = [{"source": source, "text": env.from_string(source).render(messages=MESSAGES,
                                                                       **VARIABLES)}
             for source in LINES + BLOCKS]
    out = {"now": now, "messages": MESSAGES, "variables": VARIABLES, "cases": cases}
    path = pathlib.Path(__file__).with_name("cases.json")
    path.write_text(json.dumps(out, ensure_ascii=True, indent=1) + "\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
