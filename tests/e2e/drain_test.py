"""Workers and broker leave under load, and clients do not notice: real processes, embedded model.

  python3 tests/e2e/drain_test.py BIN_DIR [unittest arguments]
"""
import json
import pathlib
import signal
import sys
import threading
import unittest

from cluster import Cluster, Job, http_get, metrics, wait_until

BIN = pathlib.Path("build/bin")
WORKER = ("--kv-tokens", 32768, "--grace-ms", 30000)
TEXTS = ("My name is Ada.", "What is 2 plus 3?", "Tell me a story about a fox.", "What is my name?")
LONG = ("--max-tokens", 900, "--ignore-eos", "--seed", 3)


def turns(cluster, session, replies):
    """The session's turns, one after another; each is long enough to be met in mid-stream."""
    for i, text in enumerate(TEXTS):
        replies.append(cluster.submit(text, "--max-tokens", 160, "--ignore-eos", "--seed", i + 1,
                                      session=session))


def hand_overs(cluster, outcome):
    return metrics(cluster.http).get(f'limpet_broker_hand_overs_total{{outcome="{outcome}"}}', 0)


class Drains(unittest.TestCase):
    def restart(self, cluster, name):
        """Drained by command, gone by itself, started again."""
        r = cluster.limpet("drain", name)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(cluster.workers[name].child.wait(60), 0)
        log = cluster.workers[name].log_tail()
        self.assertIn("unfinished_jobs=0", log)
        cluster.workers[name].start()
        wait_until(f"{name} is back", 60, lambda: http_get(cluster.worker_http[name], "/readyz")[0] == 200)

    def test_a_rolling_drain_goes_unnoticed(self):
        with Cluster(BIN, workers=("one", "two", "three"), worker_args=WORKER) as cluster:
            replies, all_back = {}, threading.Event()

            def client(i):
                """One session after another until both workers are back, however fast the machine is."""
                for k in range(1000):
                    if k > 0 and all_back.is_set():
                        return
                    turns(cluster, f"s{i}-{k}", replies.setdefault(f"s{i}-{k}", []))
            threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
            for t in threads:
                t.start()
            try:
                # As soon as the sessions have their homes, one after another.
                wait_until("the load runs", 120, lambda: sum(map(len, list(replies.values()))) >= len(threads))
                self.restart(cluster, "one")
                self.restart(cluster, "two")
            finally:
                all_back.set()
                for t in threads:
                    t.join()
            sessions = sorted(replies)
            later = [r.started[0] for s in sessions for r in replies[s][1:]]
            again = [s for s in later if s["residency"] == "reprefilled"]
            self.assertLessEqual(len(again), len(later) // 10, again)
            self.assertGreater(hand_overs(cluster, "moved"), 0)
            for outcome in ("giver", "receiver", "timeout"):
                self.assertEqual(hand_overs(cluster, outcome), 0, outcome)
            for s in sessions:
                self.assertEqual([r.errors for r in replies[s]], [""] * len(TEXTS))
                self.assertTrue(all(r.finished for r in replies[s]))
            undisturbed = []
            turns(cluster, "undisturbed", undisturbed)
            for s in sessions:
                self.assertEqual([r.ids for r in replies[s]], [r.ids for r in undisturbed], s)

    def test_a_running_job_goes_on_elsewhere_on_its_kv(self):
        with Cluster(BIN, worker_args=WORKER) as cluster:
            twin = cluster.submit("Tell me a story about a fox.", *LONG)
            job = Job(cluster, "Tell me a story about a fox.", *LONG, session="s")
            home = job.wait_for(lambda e: e["event"] == "started")["worker"]
            job.wait_for(lambda e: e["event"] == "tokens" and e["first_index"] >= 20)
            for _ in range(2):  # as a terminal's shell and the kernel do when it closes
                cluster.workers[home].child.send_signal(signal.SIGHUP)
            reply = job.wait()
            self.assertEqual(reply.errors, "")
            self.assertEqual([s["residency"] for s in reply.started], ["reprefilled", "migrated"])
            self.assertNotEqual(reply.started[1]["worker"], home)
            self.assertEqual(reply.ids, twin.ids)
            self.assertEqual(reply.text, twin.text)
            self.assertEqual(cluster.workers[home].child.wait(60), 0)
            there = cluster.worker_http[reply.started[1]["worker"]]
            moved = metrics(there)['limpet_worker_kv_moved_bytes_total{direction="from_worker"}']
            self.assertGreater(moved, 0)
            broker = metrics(cluster.http)
            self.assertEqual(broker['limpet_broker_dispatches_total{residency="migrated"}'], 1)
            after = cluster.submit("Hello!", session="s")
            self.assertEqual(after.started[0]["residency"], "resident")

    def test_without_a_peer_it_finishes_and_its_sessions_are_prefilled_again(self):
        with Cluster(BIN, workers=("one",), worker_args=WORKER) as cluster:
            job = Job(cluster, "Tell me a story about a fox.", *LONG, session="s")
            job.wait_for(lambda e: e["event"] == "tokens")
            self.restart(cluster, "one")
            self.assertEqual(len(job.wait().ids), 900)
            after = cluster.submit("Hello!", session="s")
            self.assertEqual(after.started[0]["residency"], "reprefilled")
            self.assertEqual(after.started[0]["reason"], "drained")

    def test_the_cost_of_losing_a_worker_is_told(self):
        with Cluster(BIN, workers=("one",), worker_args=WORKER) as cluster:
            # The page is drawn now and then: a worker that is ready may not be on it yet.
            (new,) = wait_until("it is listed", 60, lambda: json.loads(http_get(cluster.http, "/workers")[1]))
            self.assertEqual(new["deletion_cost"], 0)
            reply = cluster.submit("Hello!", session="s")
            known = reply.end["usage"]["prompt_tokens"] + reply.end["usage"]["output_tokens"]

            def cost():
                page = json.loads(http_get(cluster.http, "/workers")[1])
                return page[0]["deletion_cost"] == known - 1 and page
            (worker,) = wait_until("its cost is known", 60, cost)
            self.assertEqual((worker["worker"], worker["state"], worker["sessions"]), ("one", "ready", 1))
            r = cluster.limpet("drain", "nobody")
            self.assertEqual(r.returncode, 1)
            self.assertIn("nobody", r.stderr)

    def test_who_has_gone_is_not_waited_for(self):
        with Cluster(BIN, workers=("one", "two"), broker_args=("--lease-ms", 600000),
                     worker_args=WORKER) as cluster:
            cluster.submit("Hello!", session='a" event=fake x="')
            for name in ("one", "two"):
                r = cluster.limpet("drain", name, "--timeout", 120)
                self.assertEqual(r.returncode, 0, r.stderr)
                cluster.workers[name].child.wait(60)
            wait_until("none is listed", 60, lambda: json.loads(http_get(cluster.http, "/workers")[1]) == [])
            moved = [line for line in cluster.broker.log_tail().splitlines() if "event=hand_over" in line]
            self.assertTrue(moved)
            for line in moved:  # what a client has chosen is one value of it
                self.assertIn('session="a\\" event=fake x=\\""', line)

    def test_a_broker_is_restarted_in_place_under_load(self):
        with Cluster(BIN, worker_args=WORKER) as cluster:
            jobs = [Job(cluster, "Tell me a story about a fox.", *LONG, session=f"s{i}") for i in range(4)]
            for j in jobs:
                j.wait_for(lambda e: e["event"] == "tokens" and e["first_index"] >= 20)
            self.assertEqual(cluster.broker.stop(), 0)
            cluster.broker.start()
            replies = [j.wait() for j in jobs]
            for r in replies:
                self.assertEqual(r.errors, "")
                self.assertEqual(r.ids, replies[0].ids)
                self.assertEqual(len(r.ids), 900)
                self.assertEqual(r.started[-1]["attempt"], 1, "its worker kept it")
            for i in range(4):
                after = cluster.submit("Hello!", session=f"s{i}")
                self.assertEqual(after.started[0]["residency"], "resident")


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        BIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
