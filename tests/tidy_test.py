"""Enforces the house rules that a program can count; fails with file:line and the rule.

Includes point one way, pure cores touch nothing outside, vendors and ISAs are named where they
belong, lines, functions and files keep their size, the environment is read in main alone.
"""
import pathlib
import re
import subprocess
import sys

# Who may include whom, by folder. tests/ and bench/ may include everything.
MAY_INCLUDE = {
    "ops": {"ops"},
    "schema": {"schema"},
    "keys": {"keys"},
    "backends": {"backends", "ops"},
    "engine": {"engine", "backends", "ops"},
    "probes": {"probes"},
    "broker": {"broker", "schema", "probes", "keys"},
    "worker": {"worker", "engine", "backends", "ops", "schema", "probes",
               "keys"},
    "clients": {"clients", "schema", "keys"},
}
# The commands that work on a model without any process around it are made of the engine.
CLIENT_OF_ENGINE = ("clients/verify/", "clients/tokenize/")

# Code that decides: no clock, thread, socket, file, environment, randomness.
PURE = re.compile(
    r"^(broker/(core|event|listing|inbox|session_table|job_table|tenant_table|worker_table|timers|ready_|fair_|[a-z_]*queue)"
    r"|worker/(core|event|scheduler|sequence|tiers|tier_event|turns)|engine/(kv_cache|sampling|text_stream|bucket)|schema/)")
# What pure code may include of ours besides pure code: plain data, and text as a function of ids.
PURE_MAY_INCLUDE = re.compile(r"^(engine/(token|detokenizer|tokenizer|tokenizer_utf8)|ops/sample/philox)\.h$")
IMPURE_INCLUDE = re.compile(
    r"#include\s*<(zmq|thread|mutex|condition_variable|future|random|fstream|iostream|filesystem"
    r"|sys/|unistd|fcntl|sqlite3|httplib|spdlog)")
IMPURE_CALL = re.compile(
    r"::now\(\)|\bthis_thread\b|\brand\(|\brandom_device\b|\bgetenv\(|\btime\(nullptr")

ENGINE_IGNORES = re.compile(r"#include\s*[<\"](zmq|flatbuffers|.*_generated\.h)")
VENDOR = re.compile(r"#include\s*<(cuda|hip/)")
VENDOR_AT_HOME = re.compile(r"^(ops/gpu\.h|backends/(cuda|hip|gpu)/)")
# Names of a vendor's interface and instructions in kernels and the backend that both share.
VENDOR_NAME = re.compile(r"\b(cuda|hip|cublas)[A-Z]\w*|__HIP\w*|__GFX\w*|__CUDA_ARCH__")
VENDOR_NEUTRAL = re.compile(r"^(ops/(?!gpu\.h$)|backends/gpu/)")
GETENV = re.compile(r"\bgetenv\(")
GETENV_AT_HOME = re.compile(r"(^|/)main\.cpp$|^tests/|^bench/")
# What a finished project does not say, and what would tie it to the machine it was written on.
UNWANTED = re.compile(r"\b(TODO|FIXME|XXX|GTEST_SKIP|DISABLED_)\b|/home/\w|/root/")

MAX_COLUMNS, MAX_FUNCTION, MAX_FILE, MAX_HEADER = 100, 70, 520, 240
SOURCES = {".h", ".cpp", ".cu", ".cuh", ".comp"}


def tracked(root):
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root,
                         capture_output=True, text=True)
    if out.returncode == 0:
        return [root / line for line in out.stdout.splitlines()]
    return [p for p in root.rglob("*") if p.is_file() and "build" not in p.parts]


def function_lengths(lines):
    """(first line, length) of each function body: a block opened by a line that ends in `) … {`
    at namespace or class depth, judged by indentation (clang-format keeps it honest)."""
    start = None
    for n, line in enumerate(lines, 1):
        if start is None:
            m = re.match(r"^( {0,2})(?!namespace|struct|class|enum|union|extern|typedef|using|#|//|\}|switch"
                         r"|constexpr .*=)\S.*\{$", line)
            if m and ("(" in line or ")" in lines[max(0, n - 2)]):
                start, indent = n, m[1]
        elif re.match(rf"^{indent}\}}", line):
            yield start, n - start + 1
            start = None


def check_includes(rel, top, n, line, bad):
    m = re.match(r'\s*#include "([a-z_]+)/', line)
    if m and m[1] in MAY_INCLUDE and m[1] not in MAY_INCLUDE[top]:
        if not (rel.startswith(CLIENT_OF_ENGINE) and m[1] in MAY_INCLUDE["engine"]):
            bad.append(f"{rel}:{n}: {top}/ must not include {m[1]}/")
    if re.match(r'\s*#include "\.\.?/', line):
        bad.append(f"{rel}:{n}: include from the project's root, not by a relative path")
    if top in {"engine", "backends", "ops"} and ENGINE_IGNORES.search(line):
        bad.append(f"{rel}:{n}: {top}/ knows neither ZeroMQ nor FlatBuffers")
    if VENDOR.search(line) and not VENDOR_AT_HOME.match(rel):
        bad.append(f"{rel}:{n}: a vendor is named in ops/gpu.h and its backend alone")


def check_source(rel, lines, bad):
    top = rel.split("/")[0]
    for n, line in enumerate(lines, 1):
        if len(line) > MAX_COLUMNS:
            bad.append(f"{rel}:{n}: {len(line)} columns (at most {MAX_COLUMNS})")
        if top in MAY_INCLUDE:
            check_includes(rel, top, n, line, bad)
        if VENDOR_NEUTRAL.match(rel) and VENDOR_NAME.search(line.split("//")[0]):
            bad.append(f"{rel}:{n}: a vendor's name belongs in ops/gpu.h")
        if PURE.match(rel) and (IMPURE_INCLUDE.search(line) or IMPURE_CALL.search(line)):
            bad.append(f"{rel}:{n}: pure code touches the outside world")
        ours = re.match(r'\s*#include "([^"]+)"', line)
        if PURE.match(rel) and ours and ours[1].split("/")[0] in MAY_INCLUDE:
            if not PURE.match(ours[1]) and not PURE_MAY_INCLUDE.match(ours[1]):
                bad.append(f"{rel}:{n}: pure code includes {ours[1]}, which is not")
        if GETENV.search(line) and not GETENV_AT_HOME.search(rel):
            bad.append(f"{rel}:{n}: the environment is read in main alone")
    limit = MAX_HEADER if rel.endswith(".h") and not rel.startswith("tests/") else MAX_FILE
    if len(lines) > limit:
        bad.append(f"{rel}:1: {len(lines)} lines (at most {limit}): split it by what it knows")
    for start, length in function_lengths(lines):
        if length > MAX_FUNCTION and not rel.startswith("tests/"):
            bad.append(f"{rel}:{start}: a function of {length} lines (at most {MAX_FUNCTION})")


def check(root):
    bad, files = [], 0
    for path in tracked(root):
        rel = path.relative_to(root).as_posix()
        if not path.is_file() or path.suffix not in SOURCES | {".py", ".txt", ".cmake", ".md", ".fbs"}:
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if not rel.endswith("tidy_test.py"):
            for n, line in enumerate(lines, 1):
                if UNWANTED.search(line):
                    bad.append(f"{rel}:{n}: unfinished, switched off, or a path of one machine")
        if rel == "docs/security.md":
            def source_of(file):
                return (root / file).read_text() if (root / file).is_file() else None
            check_named_tests(rel, "\n".join(lines), source_of, bad)
        if path.suffix in SOURCES:
            files += 1
            check_source(rel, lines, bad)
    return bad, files


NAMED_TESTS = re.compile(r"`(tests/[\w/]+\.(?:py|cpp))(?::\s*([^`]*))?`")


def check_named_tests(rel, text, source_of, bad):
    """Each `file: case, case` that a document names is there; `the same, case` is not looked at."""
    for n, line in enumerate(text.splitlines(), 1):
        for file, cases in NAMED_TESTS.findall(line):
            source = source_of(file)
            if source is None:
                bad.append(f"{rel}:{n}: names {file}, which is not there")
                continue
            for case in filter(None, re.split(r",\s*", cases)):
                if not re.search(rf"\b(test_)?{case}\b", source):
                    bad.append(f"{rel}:{n}: names {case}, which {file} has not")


def self_test():
    """The rules themselves: each catches what it is there for."""
    cases = [
        ("broker/core.cpp", "#include <thread>", "pure"),
        ("broker/core.cpp", "auto t = std::chrono::steady_clock::now();", "pure"),
        ("broker/core.cpp", "auto t = Clock::now();", "pure"),
        ("broker/core.cpp", '#include "broker/store.h"', "pure"),
        ("worker/core.cpp", '#include "worker/zmq_transport.h"', "pure"),
        ("worker/scheduler.cpp", '#include "engine/engine.h"', "pure"),
        ("engine/kv_cache.cpp", '#include "backends/backend.h"', "pure"),
        ("worker/core.cpp", "std::this_thread::sleep_for(1ms);", "pure"),
        ("worker/core.cpp", "#include <fcntl.h>", "pure"),
        ("ops/add/add.h", '#include "engine/engine.h"', "must not include"),
        ("engine/engine.cpp", "#include <zmq.hpp>", "neither ZeroMQ"),
        ("engine/engine.cpp", "x = std::getenv(\"X\");", "environment"),
        ("engine/engine.cpp", "#include <cuda_runtime.h>", "vendor"),
        ("ops/add/add_gpu.cu", "cudaStreamSynchronize(s);", "vendor's name"),
        ("backends/gpu/memory.cpp", "#if defined(__HIP_PLATFORM_AMD__)", "vendor's name"),
        ("worker/worker.cpp", "x" * 101, "columns"),
    ]
    for rel, line, want in cases:
        bad = []
        check_source(rel, [line], bad)
        assert any(want in b for b in bad), (rel, line, bad)
    bad = []
    sources = {"tests/a_test.py": "def test_one(self):", "tests/b_test.cpp": "TEST_F(T, Two) {"}
    named = "`tests/a_test.py: one, other`, `tests/b_test.cpp: Two`, `tests/c_test.py`"
    check_named_tests("docs/security.md", named, sources.get, bad)
    assert [b.split(": ")[1][:11] for b in bad] == ["names other", "names tests"], bad
    bad = []
    check_source("probes/http_server.cpp", ["void f() {"] + ["  x();"] * 80 + ["}"], bad)
    assert any("function of 82" in b for b in bad), bad


if __name__ == "__main__":
    self_test()
    problems, count = check(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())
    print("\n".join(problems))
    print(f"{count} source files, {len(problems)} problems")
    assert count > 0
    sys.exit(bool(problems))
