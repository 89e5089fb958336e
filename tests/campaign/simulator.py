"""The simulator's part of a campaign: seeds of the cores, the scheduler, hand-over and tiers."""
import os
import pathlib
import re
import subprocess

SEEDS_A_MINUTE = 1000
APART = 1_000_000  # two campaigns' seeds: none of theirs is the same


def seeds_of(a):
    """(first, how many) for the arguments of a campaign."""
    return a.seed * APART, round(a.minutes * SEEDS_A_MINUTE) if a.sim_seeds is None else a.sim_seeds


def run(bin_dir, first, count):
    """What limpet-sim says of these seeds; its violations are the campaign's."""
    out = {"from": first, "to": first + count, "seeds": 0, "seconds": 0.0, "done": {}, "violations": []}
    if count <= 0:
        return out
    argv = [pathlib.Path(bin_dir) / "limpet-sim", "--seeds", f"{first}..{first + count}",
            "--threads", str(os.cpu_count())]
    try:
        p = subprocess.run(argv, capture_output=True, text=True, preexec_fn=lambda: os.nice(10))
    except OSError as e:
        out["violations"] = [f"simulator: {e}; --sim-seeds 0 does without"]
        return out
    return read(p.stdout, p.returncode, p.stderr, out)


def read(text, status, errors, out):
    out["violations"] = [f"simulator: {line}" for line in text.splitlines() if line.startswith("seed ")]
    end = re.search(r"^(\d+) seeds in ([\d.]+) s .*\n", text, re.MULTILINE)
    if end:
        out["seeds"], out["seconds"] = int(end[1]), float(end[2])
        out["done"] = {what: int(n) for n, what in re.findall(r"(\d+) ([a-z][a-z -]*[a-z])", text[end.end():])}
    complete = out["seeds"] == out["to"] - out["from"]
    if (status != 0 or not complete) and not out["violations"]:
        out["violations"] = [f"simulator: {out['seeds']} seeds done, exit status {status}: {errors.strip()[-200:]}"]
    return out
