"""KV by contract and the operator's commands, seen from outside: real processes, embedded model.

  python3 tests/e2e/operate_test.py BIN_DIR [unittest arguments]
"""
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time
import unittest

from cluster import Cluster, metrics, wait_until

BIN = pathlib.Path("build/bin")
POOL = 1024  # tokens of KV

NAMES = ("Ada", "Grace", "Edsger", "Barbara")


def story(tokens):
    """A text of about so many tokens."""
    return "The fox sat in the garden. " * (tokens // 8)


class Contract(unittest.TestCase):
    def test_large_sessions_that_take_turns_and_small_ones_starve_nobody(self):
        agents, rounds, small, deadline = 4, 3, 50, 120
        with Cluster(BIN, workers=("one",), worker_args=("--kv-tokens", POOL)) as cluster:
            probe = cluster.submit(story(400), "--raw", "--max-tokens", 2)
            per_token = 400 / probe.end["usage"]["prompt_tokens"]
            cap = POOL * 9 // 10
            replies, lock = {}, threading.Lock()
            all_have_had_theirs = threading.Barrier(agents)

            def turn(key, text, session, *args):
                asked = time.monotonic()
                reply = cluster.submit(text, "--raw", "--deadline", deadline, *args, session=session)
                with lock:
                    replies[key] = (reply, time.monotonic() - asked)

            def agent(i):
                for r in range(rounds):
                    # Of its own from the first word on: no KV is shared, and one of them fits.
                    text = f"{NAMES[i]}. " + story(int((cap - 200) * per_token)) if r == 0 else "And then? "
                    turn(("agent", i, r), text, f"agent-{i}", "--max-tokens", 8, "--session-max-tokens", cap)
                    all_have_had_theirs.wait(600)

            def come_and_go(k):
                for i in range(k, small, 4):
                    turn(("small", i), "Hello, little one. ", f"small-{i}", "--max-tokens", 8)

            threads = [threading.Thread(target=agent, args=(i,)) for i in range(agents)]
            threads += [threading.Thread(target=come_and_go, args=(k,)) for k in range(4)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(len(replies), agents * rounds + small)
            for key, (reply, took) in replies.items():
                self.assertTrue(reply.finished, (key, reply.errors))
                self.assertLess(took, deadline, key)
                for start in reply.started:
                    reasons = ("new_session", "evicted") if start["residency"] == "reprefilled" else ("none",)
                    self.assertIn(start["reason"], reasons, key)
            evicted = [k for k, (r, _) in replies.items() if r.started[0]["reason"] == "evicted"]
            self.assertGreaterEqual(len(evicted), (agents - 1) * (rounds - 1), "there is room for one of the four")
            wait_until("it is counted", 60, lambda: metrics(cluster.worker_http["one"]).get(
                'limpet_worker_reprefilled_tokens_total{reason="evicted"}', 0) > 0)

    def test_terms_release_and_require_resident(self):
        with Cluster(BIN, workers=("one",)) as cluster:
            first = cluster.submit("My name is Ada.", "--session-max-tokens", 400, "--keep-alive", 3600, session="a")
            known = first.end["usage"]["prompt_tokens"] + first.end["usage"]["output_tokens"]
            r = cluster.limpet("release", "a", "--json", check=True)
            self.assertEqual(json.loads(r.stdout), {"session": "a", "state": "idle", "tokens": known})
            self.assertEqual(cluster.limpet("release", "a").stdout,
                             f"a: none of its KV is kept; {known} tokens stay in its transcript\n")
            again = cluster.submit("What is my name?", "--require-resident", session="a")
            self.assertIn("not_resident", again.errors)
            again = cluster.submit("What is my name?", session="a")
            self.assertEqual((again.started[0]["residency"], again.started[0]["reason"]), ("reprefilled", "evicted"))
            self.assertIn("Ada", again.text)
            long = cluster.submit(story(600), session="a")
            self.assertIn("too_long", long.errors)
            self.assertIn("session_max_tokens", long.errors)
            self.assertEqual(cluster.submit("Hello!", "--require-resident", session="a").status, 0)
            # Terms outlive the broker; a session that keeps nothing has nothing afterwards.
            cluster.submit("Hello!", "--keep-alive", 0, session="b")
            cluster.broker.kill9()
            cluster.broker.start()
            cluster.wait_ready()
            rows = {r["session"]: r for r in map(json.loads, cluster.limpet("sessions", "--json").stdout.splitlines())}
            self.assertEqual((rows["a"]["keep_alive_ms"], rows["a"]["max_tokens"]), (3600000, 400))
            self.assertEqual((rows["b"]["keep_alive_ms"], rows["b"]["home"]), (0, ""))
            self.assertEqual(cluster.submit("Hello!", session="a").started[0]["residency"], "resident")
            self.assertEqual(cluster.submit("Hello!", session="b").started[0]["reason"], "evicted")
            r = cluster.limpet("submit", "Hello!", "--session", "c", "--session-max-tokens", 1000000)
            self.assertIn("more than any worker can hold", r.stderr)


class Operator(unittest.TestCase):
    def rows(self, cluster, *args):
        r = cluster.limpet(*args, "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        return [json.loads(line) for line in r.stdout.splitlines()]

    def test_failed_jobs_are_listed_with_reasons_and_done_again(self):
        with Cluster(BIN, workers=("one",)) as cluster:
            cluster.submit("Hello!", "--job", "good", "--session-max-tokens", 80, session="s")
            failed = cluster.submit(story(200), "--raw", "--job", "long", "--max-tokens", 8, session="s")
            self.assertEqual(failed.status, 1)
            (row,) = self.rows(cluster, "jobs", "--failed")
            self.assertEqual((row["job"], row["session"], row["code"]), ("long", "s", "too_long"))
            self.assertIn("session_max_tokens", row["detail"])
            self.assertEqual(len(self.rows(cluster, "jobs", "--failed", "--since", "1h")), 1)
            self.assertEqual([r["job"] for r in self.rows(cluster, "jobs", "--state", "finished")], ["good"])
            self.assertEqual(len(self.rows(cluster, "jobs", "--session", "s")), 2)
            self.assertEqual(self.rows(cluster, "jobs", "--session", "other"), [])
            self.assertEqual(len(self.rows(cluster, "sessions", "--worker", "one", "--state", "idle")), 1)
            self.assertEqual(cluster.limpet("jobs", "--state", "odd").returncode, 2)
            self.assertEqual(cluster.limpet("jobs", "--since", "soon").returncode, 2)

            cluster.broker.kill9()  # the body of what has failed is durable
            cluster.broker.start()
            cluster.wait_ready()
            cluster.submit("Hello!", "--session-max-tokens", 2000, session="s")
            (answer,) = self.rows(cluster, "retry", "long")
            self.assertTrue(answer["again"])
            r = cluster.limpet("attach", "long", "--json", check=True)
            events = [json.loads(line) for line in r.stdout.splitlines()]
            self.assertEqual(events[-1]["event"], "finished")
            ids = [t for e in events if e["event"] == "tokens" for t in e["ids"]]
            self.assertEqual(len(ids), events[-1]["usage"]["output_tokens"])
            (answer,) = self.rows(cluster, "retry", "long")
            self.assertEqual((answer["again"], answer["state"]), (False, "finished"))
            self.assertEqual(self.rows(cluster, "jobs", "--failed"), [])
            r = cluster.limpet("retry", "nobody")
            self.assertEqual((r.returncode, r.stderr.count("\n")), (1, 1))

    def test_watch_shows_it_again_until_it_is_stopped(self):
        with Cluster(BIN, workers=("one",)) as cluster:
            watch = subprocess.Popen([BIN / "limpet", "workers", "--broker", cluster.endpoint, "--json", "--watch",
                                      "0.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            lines = [json.loads(watch.stdout.readline()) for _ in range(3)]
            self.assertEqual({row["worker"] for row in lines}, {"one"})
            watch.send_signal(signal.SIGINT)
            self.assertEqual(watch.wait(60), 0)
            watch.stdout.close(), watch.stderr.close()

    def test_retention_forgets_what_has_ended_and_keeps_what_is_in_use(self):
        args = ("--retain-jobs-s", 1, "--retain-sessions-s", 6)
        # Without shared prefixes: what is released is surely computed again.
        with Cluster(BIN, workers=("one",), broker_args=args, worker_args=("--no-shared-prefixes",)) as cluster:
            last = [cluster.submit("My name is Ada.", "--job", "kept", session="used")]
            cluster.submit("Hello!", session="unused")
            for i in range(3):
                cluster.submit("Hello!", "--job", f"gone-{i}")

            def retired(what):
                return metrics(cluster.http).get(f'limpet_broker_retired_total{{what="{what}",why="age"}}', 0)

            def use():
                last[0] = cluster.submit("Hello!", session="used")
                time.sleep(0.3)
                return retired("job") >= 3 and retired("session") >= 1
            wait_until("they are forgotten", 60, use)
            listed = [row["job"] for row in self.rows(cluster, "jobs", "--limit", 1000)]
            self.assertNotIn("gone-0", listed)
            self.assertEqual([row["session"] for row in self.rows(cluster, "sessions")], ["used"])
            for command in ("attach", "cancel", "retry"):
                self.assertIn("no such job", cluster.limpet(command, "gone-0").stderr)
            again = cluster.submit("Another body.", "--job", "gone-0")
            self.assertEqual(again.end["event"], "finished", "its id is free")
            # Its transcript is made of it: kept, not listed.
            self.assertNotIn("kept", listed)
            self.assertEqual(cluster.limpet("attach", "kept").returncode, 0)
            # What is in use has all of its transcript: computed from it, the next turn is the same.
            known = last[0].end["usage"]["prompt_tokens"] + last[0].end["usage"]["output_tokens"]
            turn = ("What is my name?", "--seed", 5, "--max-tokens", 40, "--ignore-eos")
            resident = cluster.submit(*turn, session="used")
            self.assertEqual(resident.started[0]["residency"], "resident")
            cluster.limpet("release", "used", check=True)
            again = cluster.submit(*turn, "--rewind-to", known, session="used")
            self.assertEqual(again.started[0]["residency"], "reprefilled")
            self.assertEqual(again.ids, resident.ids)
            self.assertGreater(metrics(cluster.http)["limpet_broker_store_bytes"], 0)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        BIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
