"""Writes cases.json: what Hugging Face's tokenizers makes of texts with one pre-tokenizer after
another. Needs the tokenizers package (0.23); run it after changing a case."""
import json
import pathlib

from tokenizers import Tokenizer

FOLDER = pathlib.Path(__file__).parent
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
SPLIT, WORDS = {"type": "WhitespaceSplit"}, {"type": "Whitespace"}
TEXTS = [
    "Hello  there,\tworld\n\nis 3.14 > x_1? ",
    "\u2003a\u180eb\u00a0c\u0085d\x1ce\u3000f\u200bg\ufeffh",
    "e\u0301te\u0301 \u0928\u093f\u0915 a\u200dx \u00b2\u00bd \u2167 \u0663\u0664 \u4e00\u4e8c\u3002\u3042\u30ab\u30fc",
    "\U00031350\u4e00\ua7cb \U00011de3\U0001e4f3 $5+`7` \u00a3\u00ac 1234567 aaaaa",
    "\n  def f():\n\treturn 'don't'  \n",
    " ",
    "x",
]


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def punctuation(behavior):
    return {"type": "Punctuation", "behavior": behavior}


def metaspace(scheme, split=True):
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}


def pattern(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


# (the tokenizer whose model it is, its steps)
CASES = [
    ("llama2-style", [SPLIT]), ("llama2-style", [WORDS]), ("qwen2-style", [SPLIT, BYTES]),
    ("qwen2-style", [WORDS, BYTES]), ("gpt2-style", [SPLIT, {**BYTES, "add_prefix_space": True, "use_regex": True}]),
    ("gpt2-style", [WORDS, {**BYTES, "add_prefix_space": True}]),
    ("llama2-style", [SPLIT, metaspace("first")]), ("llama2-style", [WORDS, metaspace("first", False)]),
    ("llama2-style", [pattern("\\s+", "Removed"), metaspace("first")]), ("llama2-style", [SPLIT, metaspace("always")]),
    ("llama2-style", [metaspace("never", False), WORDS]),
    ("qwen2-style", [digits(True), BYTES]), ("qwen2-style", [SPLIT, digits(False), punctuation("Isolated"), BYTES]),
    ("qwen2-style", [punctuation("Contiguous"), BYTES]), ("qwen2-style", [WORDS, punctuation("MergedWithNext"), BYTES]),
    # What PCRE2 and Oniguruma write alike and mean otherwise.
    *(("qwen2-style", [pattern(p, "Removed"), BYTES]) for p in (
        r"^\s*\w", r"\s*$", r"\w", r"\W", r"[\w.]+", r"\d", r"\h", r"\v|\n\t", r"\b.", r"\B.", r"(?m:e.*)", "[[:alpha:]]",
        "[[:alnum:]]+", "[[:punct:]]", "[[:upper:][:digit:]]", "[[:lower:]]", "[[:word:][:blank:]]", r"\p{Punct}",
        r"\p{Alpha}", r"\p{Han}+", r"[^\p{Han}]", r"[\p{Hiragana}\p{Latin}]", r"\p{N}{1,3}+", "a{2}?", "(?:a|x){,2}+")),
]


def main():
    out = []
    for model, steps in CASES:
        j = json.loads((FOLDER.parent / model / "tokenizer.json").read_text())
        j["normalizer"] = None
        j["pre_tokenizer"] = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
        t = Tokenizer.from_str(json.dumps(j))
        out.append({"model": model, "pre_tokenizer": j["pre_tokenizer"],
                    "ids": [t.encode(text, add_special_tokens=False).ids for text in TEXTS]})
    rows = ",\n".join(json.dumps(row) for row in out)
    (FOLDER / "cases.json").write_text(f'{{"texts": {json.dumps(TEXTS)},\n"cases": [\n{rows}\n]}}\n')
    print(len(out), "cases")


if __name__ == "__main__":
    main()
