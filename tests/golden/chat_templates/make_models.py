"""Writes models.json: what Jinja2 renders for the templates in models/, which are written from the
formats that Llama 3, Qwen 2.5, Qwen 3, Mistral and Phi publish. Needs jinja2 (3.1)."""
import json
import pathlib

import jinja2

from make_cases import environment

HERE = pathlib.Path(__file__).parent
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather at a place, now.",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "City, e.g. \"Z\u00fcrich\""},
        "unit": {"type": "string", "enum": ["C", "F"]}}, "required": ["place"]}}}
TIME = {"type": "function", "function": {
    "name": "get_time", "description": "The time", "parameters": {"type": "object",
                                                                  "properties": {}}}}
SYSTEM = {"role": "system", "content": "  Be brief. "}
TALK = [{"role": "user", "content": "Hi <there>"}, {"role": "assistant", "content": " Hello.\n"},
        {"role": "user", "content": "What's 1+1? "}]


def call(name, arguments, number=1):
    return {"id": f"call0000{number}", "type": "function",
            "function": {"name": name, "arguments": arguments}}


ONE_TOOL = [{"role": "user", "content": "Weather in Z\u00fcrich?"},
            {"role": "assistant", "content": "", "tool_calls": [
                call("get_weather", {"place": "Z\u00fcrich", "unit": "C"})]},
            {"role": "tool", "name": "get_weather", "tool_call_id": "call00001",
             "content": "21.5"}]
TWO_TOOLS = [{"role": "user", "content": "Weather and time?"},
             {"role": "assistant", "content": "Let me see.", "tool_calls": [
                 call("get_weather", {"place": "Bern"}), call("get_time", {}, 2)]},
             {"role": "tool", "tool_call_id": "call00001", "content": "{\"degrees\": 3}"},
             {"role": "tool", "tool_call_id": "call00002", "content": "noon"},
             {"role": "assistant", "content": "3 degrees at noon."},
             {"role": "user", "content": "Thanks"}]
THOUGHTS = [{"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n2"},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "4", "reasoning_content": "\nAgain.\n"}]
CASES = [
    ([SYSTEM, *TALK], {}),
    (TALK, {}),
    (TALK, {"add_generation_prompt": False, "date_string": "26 Jul 2024"}),
    ([SYSTEM, *ONE_TOOL], {"tools": [WEATHER, TIME]}),
    (ONE_TOOL, {"tools": [WEATHER], "tools_in_user_message": False}),
    ([SYSTEM, *TWO_TOOLS], {"tools": [WEATHER, TIME]}),
    (THOUGHTS, {"add_generation_prompt": False}),
    (THOUGHTS[:3], {"enable_thinking": False}),
    ([TALK[0], TALK[0]], {}),
    ([SYSTEM], {"tools": [WEATHER]}),
]


def main():
    now = 1700000000
    out = []
    for path in sorted((HERE / "models").glob("*.jinja")):
        template = environment(now).from_string(path.read_text())
        for messages, variables in CASES:
            given = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>",
                     "add_generation_prompt": True, **variables, "messages": messages}
            case = {"template": path.name, "variables": given}
            try:
                case["text"] = template.render(**given)
            except jinja2.exceptions.TemplateError as e:
                case["error"] = str(e)
            out.append(case)
    (HERE / "models.json").write_text(json.dumps({"now": now, "cases": out}, indent=1) + "\n")
    print(len(out), "cases,", sum("error" in c for c in out), "refused")


if __name__ == "__main__":
    main()
