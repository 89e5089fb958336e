"""One campaign: seeds of the simulator; a reference run, load under faults, healing, and the judgement."""
import argparse
import json
import math
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

import history
import report
import simulator
from faults import Faults
from load import Load, Recorder
from namespaces import Network, isolate, kill_children
from plans import PLANS, kind
from scene import TENANTS, WORKERS, Scene

DISK_MB, DISK_MB_A_MINUTE = 64, 32  # of memory; what the store grows by on a fast machine
# Small enough that sessions give way to each other, on the device and below it (2,560 bytes are a
# token's KV); replies must not depend on it.
WORKER_ARGS = ("--kv-tokens", 4000, "--kv-host-bytes", "4M", "--kv-disk-bytes", "16M", "--kv-least-tokens", 40,
               "--grace-ms", 8000)
BROKER_ARGS = ("--lease-ms", 1500, "--home-grace-ms", 2000, "--start-deadline-ms", 3000,
               "--attempt-deadline-ms", 15000, "--max-attempts", 1000)


def arguments():
    p = argparse.ArgumentParser(prog="tests/campaign/run", description=__doc__)
    p.add_argument("--bin", default="build/bin", help="folder of the programs")
    p.add_argument("--minutes", type=float, default=30, help="of load under faults")
    p.add_argument("--seed", type=int, default=1, help="of faults and load; threads and timing are not the seed's")
    p.add_argument("--sim-seeds", type=int, help="of the simulator, run first (default: 1000 a minute; 0: none)")
    p.add_argument("--clients", type=int, default=12)
    p.add_argument("--report", default="campaign-report", help="folder of report.md, report.json, history.jsonl")
    p.add_argument("--keep", action="store_true", help="keep the logs and the store even when all is well")
    p.add_argument("--patience", type=float, default=180, help="seconds that open jobs get after healing")
    a = p.parse_args()
    wrong = wrong_argument(a)
    if wrong:
        print(f"tests/campaign/run: {wrong}", file=sys.stderr)
        sys.exit(2)
    return a


PROGRAMS = ("limpet", "limpet-broker", "limpet-worker", "limpet-sim", "hostile_peer")


def wrong_argument(a):
    """What is wrong with them; nothing: None."""
    if not (math.isfinite(a.minutes) and a.minutes > 0):
        return "--minutes: more than 0"
    if not (math.isfinite(a.patience) and a.patience >= 0):
        return "--patience: seconds, 0 or more"
    if a.clients < 1:
        return "--clients: 1 or more"
    if a.sim_seeds is not None and a.sim_seeds < 0:
        return "--sim-seeds: 0 or more"
    for name in PROGRAMS:
        if not os.access(pathlib.Path(a.bin) / name, os.X_OK):
            return f"--bin: {a.bin} has no {name}; build it, or name the folder of the programs"
    return None


class Stopped(Exception):
    """By SIGTERM or SIGINT."""


def stop_on_signals():
    def stop(number, _):
        for n in (signal.SIGTERM, signal.SIGINT):
            signal.signal(n, signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)
    for n in (signal.SIGTERM, signal.SIGINT):
        signal.signal(n, stop)


def reference(scene):
    """{(plan, turn): reply} of a run that nobody disturbs, by the same programs."""
    out = {}
    for plan, turns in PLANS.items():
        for t, turn in enumerate(turns):
            r = scene.limpet(TENANTS[0], "submit", "--json", "--job", f"ref-{plan}-{t}", "--session", f"ref-{plan}",
                             *turn.argv(reference=True), turn.text, timeout=300)
            events = [json.loads(line) for line in r.stdout.splitlines()]
            if r.returncode != 0:
                raise RuntimeError(f"the reference run of {plan}, turn {t}: {r.stderr}")
            tokens = [e for e in events if e["event"] == "tokens"]
            out[(plan, t)] = {"ids": [i for e in tokens for i in e["ids"]], "text": "".join(e["text"] for e in tokens),
                              "reason": events[-1]["reason"]}
    return out


def records_of(path):
    with open(path, encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)


def hostile_sums(words):
    out = {}
    for w in words:
        sums = out.setdefault(w["mode"], {"peers": 0, "frames": 0, "bytes": 0, "answers": 0})
        sums["peers"] += 1
        for key in ("frames", "bytes", "answers"):
            sums[key] += w[key]
    return out


def figures(a, scene, load, faults, recorder, seconds):
    return {
        "simulation": a.simulation, "seed": a.seed, "seconds": seconds, "cores": os.cpu_count(), "clients": a.clients, "workers": list(WORKERS),
        "load": dict(load.counts), "faults": dict(faults.counts), "skipped": faults.skipped,
        "damage": faults.damage, "hostile": hostile_sums(faults.hostile_words),
        "recoveries": load.recoveries(),
        "stalls": {**load.longest, "anything, all clients": recorder.longest_silence},
        "memory_mb": {m.name: m.resident_kb() // 1024 for m in scene.machines()},
        "calls": recorder.calls,
    }


def summary(f):
    """The figures that are asked for first."""
    faults, found, simulated = f["faults"], f["recoveries"], f["simulation"]
    again = sum(n for (why, residency, _), n in found.items() if why != "first turn" and residency == "reprefilled")
    kept = {r: sum(n for (why, residency, _), n in found.items() if why != "first turn" and residency == r)
            for r in ("resident", "restored", "migrated")}
    return {
        "simulated seeds": f"{simulated['seeds']}, {len(simulated['violations'])} violations",
        "jobs answered": f["load"].get("answered", 0),
        "kills (-9) of processes": faults.get("kill -9", 0) + 4 * faults.get("kill -9 of all", 0)
        + faults.get("damaged store", 0) + f["load"].get("client killed", 0),
        "of them clients": f["load"].get("client killed", 0),
        "partitions": faults.get("partition", 0) + faults.get("partition one way", 0),
        "longest stall of a stream, s": round(f["stalls"]["between tokens"][0], 2),
        "longest time in which no client got anything, s": round(f["stalls"]["anything, all clients"][0], 2),
        "starts of later turns and attempts": ", ".join(f"{n} {r}" for r, n in kept.items()) + f", {again} re-prefilled",
    }


def judge(a, folder, f, load, faults, answers):
    count = 0

    def counted():
        nonlocal count
        for record in records_of(folder / "history.jsonl"):
            count += 1
            yield record
    violations = history.check(counted(), answers, kind)
    violations += [f"campaign: {e}" for e in load.errors] + faults.problems + f["simulation"]["violations"]
    if load.counts.get("answered", 0) == 0:
        violations.append("no job was answered: nothing was tested")
    if sum(faults.counts.values()) == 0:
        violations.append("no fault happened: nothing was tested")
    f.update(records=count, summary=summary(f), violations=violations,
             verdict="all is valid" if not violations else f"{len(violations)} violations")
    return report.write(folder, f)


def disturbed(a, scene, answers, recorder):
    """The campaign itself; (figures, load, faults)."""
    load = Load(scene, recorder, a.seed, a.clients)
    load.reference = answers
    faults = Faults(scene, load, recorder, a.seed)
    for line in faults.skipped:
        print(f"campaign: not done here: {line}", flush=True)
    began = time.monotonic()
    load.begin()
    faults.begin()
    while time.monotonic() - began < a.minutes * 60:
        time.sleep(min(10, max(0.1, a.minutes * 60 - (time.monotonic() - began))))
        if sys.stdout.isatty():
            print(f"\r{time.monotonic() - began:6.0f} s  {load.counts.get('answered', 0)} jobs answered, "
                  f"{sum(faults.counts.values())} faults, {len(faults.problems)} problems", end="", flush=True)
    faults.finish()
    seconds = time.monotonic() - began
    scene.wait_ready(120)
    load.finish(a.patience)
    asked_again = load.look_again(400, random.Random(a.seed))
    f = figures(a, scene, load, faults, recorder, seconds)
    f["asked_again"] = asked_again
    return f, load, faults


def campaign(a, missing):
    """Exit status."""
    folder = pathlib.Path(a.report)
    folder.mkdir(parents=True, exist_ok=True)
    a.simulation = simulator.run(a.bin, *simulator.seeds_of(a))
    work = pathlib.Path(tempfile.mkdtemp(prefix="limpet-campaign-"))
    network = Network(WORKERS, missing)
    recorder = Recorder(folder / "history.jsonl")
    scene = Scene(a.bin, work, network, BROKER_ARGS, (*WORKER_ARGS, "--kv-disk-dir", work),
                  DISK_MB + int(DISK_MB_A_MINUTE * a.minutes))
    ok = stopped = False
    try:
        scene.start()
        answers = reference(scene)
        (folder / "reference.json").write_text(json.dumps([[*key, value] for key, value in answers.items()]))
        f, load, faults = disturbed(a, scene, answers, recorder)
        recorder.close()
        path = judge(a, folder, f, load, faults, answers)
        ok = not f["violations"]
        print(f"\ncampaign: {f['verdict']}; {f['simulation']['seeds']} seeds simulated, "
              f"{f['load'].get('answered', 0)} jobs answered under {sum(f['faults'].values())} faults; {path}")
        for line in f["violations"][:20]:
            print("  " + line)
    except Stopped:
        stopped = True
        raise
    finally:
        if a.keep or not (ok or stopped):
            shutil.copytree(work, folder / "work", dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("*.transfer", "copy", "filler"))
            print(f"campaign: logs and store are in {folder / 'work'}")
        scene.close()
        shutil.rmtree(work, ignore_errors=True)
    return 0 if ok else 1


def main():
    a = arguments()
    a.report, a.bin = str(pathlib.Path(a.report).resolve()), str(pathlib.Path(a.bin).resolve())
    missing = isolate()
    stop_on_signals()
    try:
        return campaign(a, missing)
    except Stopped as e:
        print(f"\ncampaign: stopped by {e}; nothing is judged", file=sys.stderr, flush=True)
        kill_children()
        os._exit(1)  # its threads would go on


if __name__ == "__main__":
    sys.exit(main())
