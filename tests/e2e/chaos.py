"""Kills a random worker or the broker again and again under load, and checks what clients saw.

Every job must be answered, no token contradicted, and every reply equal to that of an undisturbed
run with the same seeds. One line of figures at the end; exit status 1 when anything is wrong.

  python3 tests/e2e/chaos.py --bin build/bin --jobs 200 --sessions 40 --every 2
"""
import argparse
import collections
import contextlib
import concurrent.futures
import json
import random
import sys
import threading
import time

from cluster import Cluster, metrics, wait_until

NAMES = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Frances", "Ken"]
CITIES = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Tokyo"]


def conversation(index, turns):
    """[(text, extra arguments)] of one session: facts told early, asked for late, and long output
    in between so that kills meet running jobs."""
    r = random.Random(index)
    out = [(f"My name is {r.choice(NAMES)}.", []), (f"I live in {r.choice(CITIES)}.", [])]
    while len(out) < turns - 1:
        out.append((r.choice(["Tell me a story about a fox.", "Tell me a story about a cat."]),
                    ["--max-tokens", 260, "--ignore-eos"]))
    out.append((r.choice(["What is my name?", "What do you know about me?"]), []))
    return out[:turns]


class Sessions:
    """How many are under way, and how many of them wait for kills before their last turn."""

    def __init__(self):
        self.lock, self.under_way, self.waiting = threading.Lock(), 0, 0

    @contextlib.contextmanager
    def one_more(self, what):
        with self.lock:
            setattr(self, what, getattr(self, what) + 1)
        try:
            yield
        finally:
            with self.lock:
                setattr(self, what, getattr(self, what) - 1)

    def all_wait(self):
        with self.lock:
            return self.waiting == self.under_way


def run_session(cluster, run, index, turns, replies, failures, last_turn_may_start):
    for turn, (text, extra) in enumerate(conversation(index, turns)):
        if turn == turns - 1:
            last_turn_may_start()
        sampling = ["--seed", 1000 * index + turn, "--temperature", 0.8 if index % 2 else 0]
        try:
            reply = cluster.submit(text, "--job", f"{run}-{index}-{turn}", *sampling, *extra,
                                   session=f"{run}-{index}", timeout=300)
        except Exception as e:  # a contradiction, or no answer at all
            failures.append(f"session {index} turn {turn}: {e!r}")
            return
        if not reply.finished:
            failures.append(f"session {index} turn {turn}: exit {reply.status} {reply.errors} {reply.end}")
            return
        replies[(index, turn)] = reply


def run_all(cluster, run, sessions, turns, clients, replies, last_turn_may_start=lambda: None,
            begun=None):
    failures, begun = [], begun or Sessions()

    def one(index):
        with begun.one_more("under_way"):
            run_session(cluster, run, index, turns, replies, failures, last_turn_may_start)

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for index in range(sessions):
            pool.submit(one, index)
    return failures


def killer(cluster, every, seed, stop, kills, replies, begun):
    """Waits for a reply between kills, so that a slow machine gets on, unless all wait for kills."""
    r, before = random.Random(seed), -1
    while not stop.wait(every):
        while len(replies) == before and not begun.all_wait() and not stop.wait(0.05):
            pass
        if stop.is_set():
            return
        before = len(replies)
        victim = r.choice([cluster.broker, *cluster.workers.values()])
        victim.kill9()
        kills[victim.name] += 1
        stop.wait(0.3)
        victim.start()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default="build/bin")
    p.add_argument("--jobs", type=int, default=200)
    p.add_argument("--sessions", type=int, default=40)
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--every", type=float, default=2.0, help="seconds between kills")
    p.add_argument("--lease-ms", type=int, default=1000, help="more for slow programs")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--min-kills", type=int, default=3)
    a = p.parse_args()
    turns = a.jobs // a.sessions

    with Cluster(a.bin) as calm:
        expected, got = {}, {}
        failures = run_all(calm, "calm", a.sessions, turns, a.clients, expected)
    assert not failures, failures[:5]

    kills, stop = collections.Counter(), threading.Event()
    began = time.monotonic()
    options = ["--lease-ms", a.lease_ms, "--max-attempts", 1000]
    with Cluster(a.bin, broker_args=options) as cluster:
        begun = Sessions()
        thread = threading.Thread(target=killer, args=(cluster, a.every, a.seed, stop, kills, got, begun))
        thread.start()

        def enough_kills():  # a fast machine is not done before it has been disturbed
            with begun.one_more("waiting"):
                wait_until("kills", 300, lambda: sum(kills.values()) >= a.min_kills)

        try:
            failures = run_all(cluster, "calm", a.sessions, turns, a.clients, got, enough_kills, begun)
        finally:
            stop.set()
            thread.join()
        seconds = time.monotonic() - began
        wait_until("broker back", 60, lambda: metrics(cluster.http))
        differing = [k for k in expected if k in got and got[k].ids != expected[k].ids]
        differing += [k for k in expected if k in got and got[k].text != expected[k].text]
        residency = collections.Counter(
            s["residency"] for reply in got.values() for s in reply.started[-1:])
        result = {
            "jobs": a.sessions * turns, "answered": len(got), "sessions": a.sessions,
            "kills": dict(kills), "seconds": round(seconds, 1), "residency": dict(residency),
            "attempts_beyond_first": sum(s["attempt"] > 1 for r in got.values() for s in r.started),
            "differing": len(set(differing)), "failures": failures[:5],
        }
        print(json.dumps(result))
        ok = len(got) == a.sessions * turns and not failures and not differing
        ok = ok and sum(kills.values()) >= a.min_kills
        if not ok:
            print(f"chaos: logs are in {cluster.folder}", file=sys.stderr)
            cluster.own_folder = False
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
