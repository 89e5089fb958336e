"""Everything is restarted under load, one process after another, and clients do not notice.

40 sessions say 10 turns each, and on a fast machine as many sessions more as it takes until the
last process is back. Meanwhile every worker is drained, goes, and comes back, and the broker is
stopped and started between them. Asked: no error at any client, no token contradicted, every reply
that of an undisturbed run, and at most 5 % of the turns prefilled again.

  python3 tests/campaign/rolling.py --bin build/bin
"""
import argparse
import json
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

import history
import plans
from campaign import reference
from load import Job, Load, Recorder
from namespaces import Network
from plans import PLANS, Turn, kind
from scene import TENANTS, WORKERS, Scene, wait_until

SESSIONS, TURNS, CLIENTS = 40, 10, 8
KINDS = 4
# Room for all sessions on any two workers: what is prefilled again is the restarts' doing.
WORKER_ARGS = ("--kv-tokens", 65536, "--grace-ms", 30000)
MOST_AGAIN = 0.05


def rolling_plans(turns):
    """Ordinary talk, long enough that each restart meets running jobs."""
    PLANS.clear()
    for k in range(KINDS):
        PLANS[f"talk{k}"] = [Turn(f"My name is {plans.NAMES[k]}." if t == 0 else plans.STORIES[t % 2],
                                  flags=["--max-tokens", 90, "--ignore-eos", "--seed", 100 * k + t,
                                         "--temperature", "0.8" if k % 2 else "0"]) for t in range(turns)]


class RollingLoad(Load):
    """`sessions` sessions at least, and further ones until `all_back` is set, so that every
    restart meets running jobs whatever the machine's speed. The clients share `begun`."""

    def __init__(self, scene, recorder, sessions):
        super().__init__(scene, recorder, 1, CLIENTS, disturb=False)
        self.sessions, self.begun = sessions, 0
        self.all_back = threading.Event()

    def start(self, tenant, argv):
        return super().start(tenant, [*argv, "--give-up", "120"])  # a slow machine's broker is back later

    def run_client(self, index):
        while True:
            with self.lock:
                if self.begun >= self.sessions and self.all_back.is_set():
                    return
                number, self.begun = self.begun, self.begun + 1
            try:
                self.run_turns(number)
            except Exception as e:
                self.errors.append(f"session {number}: {e!r}")

    def run_turns(self, number):
        plan = f"talk{number % KINDS}"
        for t in range(len(PLANS[plan])):
            job = Job(TENANTS[number % 2], f"s{number}", t, plan, f"s{number}-t{t}")
            self.drive(job, random.Random(number))

    def without_a_word(self, job, call):
        self.errors.append(f"{job.name}: a client ended without a word: {call.errors}")
        time.sleep(1)

    def is_over(self, job, last):
        over = super().is_over(job, last)
        if last["event"] != "finished":
            self.errors.append(f"{job.name}: {last}")
        return over


def restart_all(scene, load):
    """Workers in turn, the broker after each; the seconds that each pair took."""
    waits = []
    for name in WORKERS:
        machine = scene.workers[name]
        begun = time.monotonic()
        machine.wanted = False
        r = scene.limpet("ops", "drain", name, timeout=120)
        if r.returncode != 0:
            load.errors.append(f"limpet drain {name}: {r.stderr}")
        status = machine.stop(60)
        if status != 0:
            load.errors.append(f"{name}: exit status {status}")
        machine.start()
        scene.wait_ready(60)
        if scene.broker.stop(30) != 0:
            load.errors.append("the broker's exit status is not 0")
        scene.broker.start()
        scene.wait_ready(60)
        waits.append(round(time.monotonic() - begun, 1))
        time.sleep(1)
    return waits


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default="build/bin")
    p.add_argument("--sessions", type=int, default=SESSIONS)
    p.add_argument("--turns", type=int, default=TURNS)
    a = p.parse_args()
    rolling_plans(a.turns)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="limpet-rolling-"))
    recorder = Recorder(folder / "history.jsonl")
    scene = Scene(a.bin, folder, Network(WORKERS, "a rolling restart needs none"), (), WORKER_ARGS, clock=False)
    try:
        scene.start()
        answers = reference(scene)
        load = RollingLoad(scene, recorder, a.sessions)
        load.begin()
        wait_until("the load runs", 60, lambda: load.counts.get("answered", 0) >= CLIENTS)
        try:
            seconds_each = restart_all(scene, load)
            met_load = all(t.is_alive() for t in load.threads)
        finally:
            load.all_back.set()
        for t in load.threads:
            t.join()
        recorder.close()
    finally:
        scene.close()
    return verdict(folder, load, answers, load.begun * a.turns, seconds_each, met_load)


def verdict(folder, load, answers, turns, seconds_each, met_load):
    records = [json.loads(line) for line in open(folder / "history.jsonl", encoding="utf-8")]
    violations = history.check(records, answers, kind)
    found = load.recoveries()
    again = sum(n for (why, residency, _), n in found.items()
                if why != "first turn" and residency == "reprefilled")
    # Whether a drain meets a session in mid-stream is chance; that one met sessions in use is not.
    moved = sum(n for (_, residency, _), n in found.items() if residency == "migrated")
    print(json.dumps({"jobs": turns, "answered": load.counts.get("answered", 0), "client_errors": len(load.errors),
                      "violations": len(violations), "reprefilled": again, "of_turns": round(again / turns, 4),
                      "longest_stall_s": round(load.longest["between tokens"][0], 2),
                      "seconds_each": seconds_each,
                      "found": {" ".join(filter(None, k)): v for k, v in sorted(found.items())}}))
    for line in [*violations, *load.errors][:20]:
        print("  " + line)
    good = not violations and not load.errors and load.counts.get("answered", 0) == turns
    if not met_load:
        print("rolling: the load was over before the last restart: nothing was tested", file=sys.stderr)
        good = False
    if moved == 0:
        print("rolling: no session in use was moved: nothing was tested", file=sys.stderr)
        good = False
    if again > MOST_AGAIN * turns:
        print(f"rolling: {again} of {turns} turns were prefilled again", file=sys.stderr)
        good = False
    if not good:
        print(f"rolling: logs are in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
