"""What limpet is for, on the embedded model: run by scripts/demo, which builds it first.

A broker and two workers; sessions that chat over several jobs, each later turn decoded from KV
that stayed where it was; a worker killed with -9 in mid-stream, and its sessions going on
elsewhere without a lost or contradicted token. Exits 1 when anything of that is not so.
"""
import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "e2e"))
from cluster import Cluster, Job, metrics, wait_until  # noqa: E402

PEOPLE = {
    "ada": ["My name is Ada.", "I live in Paris.", "What is the capital of France?", "What is my name?"],
    "grace": ["My name is Grace.", "Hello!", "Spell garden.", "What is my name?"],
    "alan": ["I live in Rome.", "What is 2 plus 3?", "Thank you.", "Where do I live?"],
    "barbara": ["My favorite color is green.", "Count up from 3 to 9.", "Good morning.",
                "What is my favorite color?"],
}
failures = []


def check(ok, what):
    print(f"  {'ok' if ok else 'WRONG':5s} {what}", flush=True)
    if not ok:
        failures.append(what)


def heading(text):
    print(f"\n{text}", flush=True)


def residency(reply):
    s = reply.started[-1]
    why = f" ({s['reason']})" if s["reason"] != "none" else ""
    return (f"{s['residency']}{why} on {s['worker']}: {s['cached_tokens']} tokens of KV at hand, "
            f"{s['prefilled_tokens']} prefilled")


def chats(cluster):
    heading("Four people chat, four jobs each. Every later turn finds its KV where it was:")
    homes = {}
    for turn in range(4):
        for who, lines in PEOPLE.items():
            reply = cluster.submit(lines[turn], session=who)
            print(f"  {who:8s}> {lines[turn]}\n  {'':8s}  {reply.text.strip()}   [{residency(reply)}]")
            start = reply.started[-1]
            if turn == 0:
                homes[who] = start["worker"]
            elif start["residency"] != "resident" or start["worker"] != homes[who]:
                check(False, f"turn {turn + 1} of {who} was not resident at its home")
            if who == "ada" and turn == 3:
                check("Ada" in reply.text, "three jobs after she said so, limpet knows Ada's name")
            if who == "alan" and turn == 3:
                check("Rome" in reply.text, "and where Alan lives")
    check(len(set(homes.values())) == 2, f"the sessions are spread over both workers: {homes}")
    return homes


def kill_in_midstream(cluster, homes):
    heading("Ada asks for something long, and her worker is killed with -9 in mid-stream:")
    story = ["Tell me a story about a fox.", "--max-tokens", 1200, "--ignore-eos", "--seed", 7]
    job = Job(cluster, *story, session="ada")
    seen = job.wait_for(lambda e: e["event"] == "tokens" and e["first_index"] >= 200)
    victim = cluster.workers[homes["ada"]]
    victim.kill9()
    killed_at = time.monotonic()
    print(f"  kill -9 {victim.name} at token {seen['first_index']}")
    job.wait_for(lambda e: e["event"] == "started" and e["worker"] != victim.name, 60)
    print(f"  another worker went on {time.monotonic() - killed_at:.1f} s later")
    reply = job.wait()
    check(reply.finished and len(reply.ids) == 1200, "all 1200 tokens arrived, each index once")
    check(len(reply.started) == 2, f"the second attempt: {residency(reply)}")
    victim.start()
    wait_until("worker back", 30, lambda: metrics(cluster.worker_http[victim.name]))

    # The same conversation, never disturbed, must read the same.
    for line in PEOPLE["ada"]:
        cluster.submit(line, session="ada-undisturbed")
    twin = cluster.submit(story[0], *story[1:], session="ada-undisturbed")
    check(twin.ids == reply.ids, "token for token what an undisturbed session says")
    again = cluster.submit("What is my name?", session="grace")
    check("Grace" in again.text, f"grace goes on: {again.text.strip()}   [{residency(again)}]")
    return victim.name


def restart_broker(cluster, homes, victim):
    heading("The broker is killed with -9 too, and started again. It knows whose home is where:")
    cluster.broker.kill9()
    cluster.broker.start()
    stayed = next(who for who in ("barbara", "alan", "grace") if homes[who] != victim)
    question, want = {"barbara": ("What is my favorite color?", "green"), "alan": ("Where do I live?", "Rome"),
                      "grace": ("What is my name?", "Grace")}[stayed]
    reply = cluster.submit(question, session=stayed)
    check(want in reply.text and reply.started[-1]["residency"] == "resident",
          f"{stayed}: {reply.text.strip()}   [{residency(reply)}]")


def figures(cluster):
    heading(f"Figures, as http://{cluster.http}/metrics tells them:")
    for key, value in sorted(metrics(cluster.http).items()):
        if key.startswith(("limpet_broker_dispatches_total", "limpet_broker_jobs_total",
                           "limpet_broker_redeliveries_total", "limpet_broker_workers{")):
            print(f"  {key} {value:g}")
    for name, address in cluster.worker_http.items():
        found = metrics(address)
        for key in sorted(found):
            if key.startswith(("limpet_worker_tokens_total", "limpet_worker_sessions{")):
                print(f"  {name}: {key} {found[key]:g}")
    done = metrics(cluster.http).get('limpet_broker_jobs_total{outcome="finished"}', 0)
    check(done > 0, "the broker counts its jobs")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--bin", default="build/bin", help="folder of the programs")
    a = p.parse_args()
    began = time.monotonic()
    heading("Starting a broker and two workers on the embedded model")
    with Cluster(a.bin, workers=("rock-1", "rock-2"), broker_args=("--lease-ms", 1500)) as cluster:
        print(f"  clients connect to {cluster.endpoint}, metrics are on http://{cluster.http}/metrics")
        homes = chats(cluster)
        victim = kill_in_midstream(cluster, homes)
        figures(cluster)
        restart_broker(cluster, homes, victim)
    heading(f"{'All of it held' if not failures else 'NOT ALL OF IT HELD'}, "
            f"in {time.monotonic() - began:.1f} s. Try it yourself:  build/bin/limpet up   and, beside it,  "
            f"build/bin/limpet chat --session me")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
