"""The contract, seen from outside: real processes on the embedded model.

  python3 tests/e2e/e2e_test.py BIN_DIR [unittest arguments]
"""
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from cluster import (EMBEDDED_MODEL, Cluster, Job, free_port, free_ports, http_get, metrics,
                     wait_until)

BIN = pathlib.Path("build/bin")
LONG = ["--max-tokens", 900, "--ignore-eos", "--seed", 3]


def say_more(sockets, until):
    """A byte now and then: none of the requests ends, and none is silent."""
    while not until.wait(0.2):
        for s in sockets:
            s.sendall(b"x")


def promtool_check(page):
    r = subprocess.run([str(BIN / "promtool"), "check", "metrics"], input=page, capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr


class Sessions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(BIN).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close()

    def test_later_turns_are_resident_and_remember(self):
        first = self.cluster.submit("My name is Ada.", session="memory")
        self.assertEqual(first.started[0]["residency"], "reprefilled")
        self.assertEqual(first.started[0]["reason"], "new_session")
        known = first.end["usage"]["prompt_tokens"] + first.end["usage"]["output_tokens"]
        for text in ("What is 2 plus 3?", "Spell garden."):
            reply = self.cluster.submit(text, session="memory")
            start = reply.started[0]
            self.assertEqual(start["residency"], "resident")
            # All but the last sampled token had its KV; nothing older was computed again.
            self.assertEqual(start["cached_tokens"], known - 1)
            usage = reply.end["usage"]
            self.assertEqual(start["prefilled_tokens"], usage["prompt_tokens"] - known + 1)
            known = usage["prompt_tokens"] + usage["output_tokens"]
        last = self.cluster.submit("What is my name?", session="memory")
        self.assertIn("Ada", last.text)
        self.assertEqual(len({first.started[0]["worker"], last.started[0]["worker"]}), 1)

    def test_a_job_id_is_idempotent(self):
        a = self.cluster.submit("Hello!", "--job", "same", session="idem")
        b = self.cluster.submit("Hello!", "--job", "same", session="idem")
        self.assertEqual((a.ids, a.text, a.end["event"]), (b.ids, b.text, b.end["event"]))
        other = self.cluster.submit("Good morning.", "--job", "same", session="idem")
        self.assertEqual(other.status, 1)
        self.assertIn("conflict", other.errors)

    def test_attach_resumes_at_an_index(self):
        whole = self.cluster.submit("Tell me a story about a fox.", "--job", "story")
        self.assertGreater(len(whole.ids), 20)
        r = self.cluster.limpet("attach", "story", "--from", 10, "--json", check=True)
        events = [json.loads(line) for line in r.stdout.splitlines()]
        ids = [t for e in events if e["event"] == "tokens" for t in e["ids"]]
        self.assertEqual(ids, whole.ids[10:])
        self.assertEqual(next(e["first_index"] for e in events if e["event"] == "tokens"), 10)

    def test_cancel_ends_a_running_job_and_keeps_its_session(self):
        job = Job(self.cluster, "Tell me a story about a fox.", "--job", "long", *LONG, session="c")
        home = job.wait_for(lambda e: e["event"] == "started")["worker"]
        job.wait_for(lambda e: e["event"] == "tokens" and e["first_index"] >= 20)
        with self.cluster.held(home):
            self.cluster.limpet("cancel", "long", check=True)
        reply = job.wait()
        self.assertEqual(reply.end["reason"], "cancelled")
        self.assertLess(len(reply.ids), 900)
        after = self.cluster.submit("Hello!", session="c")
        self.assertTrue(after.finished)
        self.assertEqual(after.started[0]["residency"], "resident")

    def test_a_client_that_leaves_cancels_nothing(self):
        job = Job(self.cluster, "Tell me a story about a cat.", "--job", "left", *LONG)
        job.wait_for(lambda e: e["event"] == "tokens")
        job.child.send_signal(signal.SIGKILL)
        job.wait()
        r = self.cluster.limpet("attach", "left", "--json", check=True)
        ids = [t for line in r.stdout.splitlines() for t in json.loads(line).get("ids", [])]
        self.assertEqual(len(ids), 900)

    def test_a_prompt_beyond_the_context_is_that_jobs_error(self):
        reply = self.cluster.submit("word " * 6000)
        self.assertEqual(reply.status, 1)
        self.assertEqual(reply.end["event"], "failed")
        self.assertEqual(reply.end["code"], "too_long")
        self.assertTrue(self.cluster.submit("Hello!").finished)

    def test_metrics_pages_are_well_formed(self):
        self.cluster.submit("Hello!")
        for address in [self.cluster.http, *self.cluster.worker_http.values()]:
            status, page = http_get(address, "/metrics")
            self.assertEqual(status, 200)
            code, said = promtool_check(page)
            self.assertEqual(code, 0, said)
            self.assertEqual(http_get(address, "/livez")[0], 200)
        self.assertGreater(metrics(self.cluster.http)['limpet_broker_jobs_total{outcome="finished"}'], 0)

    def test_probes_are_answered_beside_slow_connections(self):
        for address in (self.cluster.http, *self.cluster.worker_http.values()):
            slow = [socket.create_connection(tuple(address.split(":"))) for _ in range(8)]
            for s in slow:
                s.sendall(b"GET /livez HTTP/1.1\r\nX: ")
            answered = threading.Event()
            more = threading.Thread(target=say_more, args=(slow, answered))
            more.start()
            try:
                self.assertEqual(http_get(address, "/livez", timeout=30)[0], 200)
            finally:
                answered.set()
                more.join()
                for s in slow:
                    s.close()

    def test_logs_hold_no_prompt_and_no_output(self):
        reply = self.cluster.submit("Spell marzipan.", session="secret")
        self.assertTrue(reply.text.strip())
        for p in (self.cluster.broker, *self.cluster.workers.values()):
            log = pathlib.Path(p.log).read_text(errors="replace")
            self.assertIn("event=", log)
            self.assertNotIn("marzipan", log)
            self.assertNotIn(reply.text.strip(), log)

    def test_listings(self):
        self.cluster.submit("Hello!", "--job", "listed", session="listed-session")
        for what, want in [("workers", "one"), ("sessions", "listed-session"), ("jobs", "listed")]:
            self.assertIn(want, self.cluster.limpet(what, check=True).stdout)

    def test_batch_lines_are_each_answered_once_and_resume(self):
        with tempfile.TemporaryDirectory() as folder:
            lines = [{"custom_id": f"c{i}", "method": "POST", "url": "/v1/chat/completions", "body": {
                "messages": [{"role": "user", "content": f"What is {i} plus 3?"}], "max_tokens": 30}}
                for i in range(20)]
            source, target = pathlib.Path(folder) / "in.jsonl", pathlib.Path(folder) / "out.jsonl"
            source.write_text("".join(json.dumps(x) + "\n" for x in lines[:8]))
            self.cluster.limpet("batch", source, "-o", target, "--concurrency", 4, check=True)
            source.write_text("".join(json.dumps(x) + "\n" for x in lines))
            self.cluster.limpet("batch", source, "-o", target, "--concurrency", 4, check=True)
            out = [json.loads(line) for line in target.read_text().splitlines()]
            self.assertEqual(sorted(o["custom_id"] for o in out), sorted(x["custom_id"] for x in lines))
            self.assertTrue(all(o["response"]["body"]["choices"][0]["message"]["content"] for o in out))


class Failures(unittest.TestCase):
    def test_a_killed_workers_stream_goes_on_elsewhere(self):
        with Cluster(BIN, broker_args=("--lease-ms", 1000)) as cluster:
            cluster.submit("My name is Ada.", session="s")
            job = Job(cluster, "Tell me a story about a fox.", *LONG, session="s")
            home = job.wait_for(lambda e: e["event"] == "started")["worker"]
            job.wait_for(lambda e: e["event"] == "tokens" and e["first_index"] >= 20)
            cluster.workers[home].kill9()
            reply = job.wait()
            self.assertEqual(len(reply.ids), 900)
            self.assertEqual(reply.started[-1]["reason"], "worker_lost")
            self.assertNotEqual(reply.started[-1]["worker"], home)
            cluster.submit("My name is Ada.", session="twin")
            twin = cluster.submit("Tell me a story about a fox.", *LONG, session="twin")
            self.assertEqual(twin.ids, reply.ids)
            self.assertEqual(twin.text, reply.text)

    def test_a_restarted_broker_keeps_homes_jobs_and_streams(self):
        with Cluster(BIN) as cluster:
            cluster.submit("My name is Ada.", session="s")
            job = Job(cluster, "Tell me a story about a fox.", *LONG, session="s")
            job.wait_for(lambda e: e["event"] == "tokens" and e["first_index"] >= 50)
            cluster.broker.kill9()
            cluster.broker.start()
            reply = job.wait()
            self.assertTrue(reply.finished, reply.errors)
            self.assertEqual(len(reply.ids), 900)
            self.assertEqual(reply.started[-1]["attempt"], 1, "the worker kept its job")
            again = cluster.submit("What is my name?", session="s")
            self.assertEqual(again.started[0]["residency"], "resident")

    def test_a_worker_that_leaves_lives_but_is_not_ready(self):
        with Cluster(BIN, workers=("one",)) as cluster:
            address = cluster.worker_http["one"]
            wait_until("ready", 60, lambda: http_get(address, "/readyz")[0] == 200)
            job = Job(cluster, "Tell me a story about a fox.", "--max-tokens", 3000, "--ignore-eos", session="leaving")
            job.wait_for(lambda e: e["event"] == "tokens")
            cluster.workers["one"].child.send_signal(signal.SIGTERM)
            wait_until("it leaves", 60, lambda: "event=leaving" in cluster.workers["one"].log_tail())
            seen = []
            while len(seen) < 5 and cluster.workers["one"].alive():
                seen.append({path: http_get(address, path)[0] for path in ("/readyz", "/livez")})
                time.sleep(0.02)
            if seen and 0 in seen[-1].values():  # its job has ended, and so does it
                seen.pop()
                self.assertEqual(cluster.workers["one"].child.wait(60), 0)
            self.assertEqual(seen, [{"/readyz": 503, "/livez": 200}] * len(seen))
            self.assertGreater(len(seen), 0)
            job.child.kill()
            job.wait()

    def test_a_hung_worker_loses_its_lease_and_cannot_speak_again(self):
        with Cluster(BIN, broker_args=("--lease-ms", 1000)) as cluster:
            job = Job(cluster, "Tell me a story about a fox.", *LONG, session="s")
            job.wait_for(lambda e: e["event"] == "tokens" and e["first_index"] >= 50)
            home = job.wait_for(lambda e: e["event"] == "started")["worker"]
            cluster.workers[home].child.send_signal(signal.SIGSTOP)
            reply = job.wait()
            cluster.workers[home].child.send_signal(signal.SIGCONT)
            self.assertEqual(len(reply.ids), 900)
            wait_until("both workers known", 60, lambda: metrics(cluster.http).get(
                'limpet_broker_workers{state="ready"}') == 2)
            self.assertTrue(cluster.submit("Hello!", session="s").finished)


class WarmUp(unittest.TestCase):
    def test_the_ladder_of_shapes_is_as_the_flags_say(self):
        for flags, shapes in ((("--past-buckets", "single", "--batch-buckets", "single"), 1),
                              (("--past-buckets", "single", "--token-budget", 8), 4)):
            with Cluster(BIN, workers=("one",), worker_args=flags) as cluster:
                self.assertTrue(cluster.submit("What is 2 plus 3?").finished)
                compiled = metrics(cluster.worker_http["one"]).get(
                    'limpet_worker_compile_cache_total{result="miss"}')
                self.assertEqual(compiled, shapes)  # all before the job came
                self.assertIn(f"event=warming shapes={shapes}/{shapes} ",
                              pathlib.Path(cluster.workers["one"].log).read_text())


class OneLineErrors(unittest.TestCase):
    """What goes wrong at the edges is one line on stderr that says what to do; status 1, or 2."""

    def run_limpet(self, *args, timeout=60):
        began = time.monotonic()
        r = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=timeout)
        return r, time.monotonic() - began

    def assert_one_line(self, r, status, *words):
        self.assertEqual(r.returncode, status, r.stderr)
        lines = [x for x in r.stderr.splitlines() if x.strip()]
        self.assertEqual(len(lines), 1, r.stderr)
        for w in words:
            self.assertIn(w, lines[0])

    def test_no_broker(self):
        r, seconds = self.run_limpet(BIN / "limpet", "submit", "--broker",
                                     f"tcp://127.0.0.1:{free_port()}", "Hello!")
        self.assert_one_line(r, 1, "broker")
        self.assertLess(seconds, 15)

    def test_wrong_usage(self):
        self.assertEqual(self.run_limpet(BIN / "limpet", "submit", "--nonsense")[0].returncode, 2)
        self.assertEqual(self.run_limpet(BIN / "limpet", "dance")[0].returncode, 2)

    def test_a_wrong_model_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            r, _ = self.run_limpet(BIN / "limpet-worker", "--broker", "tcp://127.0.0.1:1", "--model", folder)
            self.assert_one_line(r, 1, folder)
            r, _ = self.run_limpet(BIN / "limpet", "up", "--model", folder, "--data", f"{folder}/data")
            self.assert_one_line(r, 1, folder)

    def test_a_device_that_is_not_built(self):
        r, _ = self.run_limpet(BIN / "limpet-worker", "--broker", "tcp://127.0.0.1:1", "--model",
                               EMBEDDED_MODEL, "--device", "metal:0")
        self.assert_one_line(r, 1, "LIMPET_METAL")

    def broker(self, data, front):
        return [BIN / "limpet-broker", "--frontend", front, "--backend", f"tcp://127.0.0.1:{free_port()}",
                "--http", f"127.0.0.1:{free_port()}", "--data", data]

    def test_a_port_in_use(self):
        with tempfile.TemporaryDirectory() as folder, socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            r, _ = self.run_limpet(*self.broker(folder, f"tcp://127.0.0.1:{port}"))
            self.assert_one_line(r, 1, str(port), "in use")

            r, _ = self.run_limpet(BIN / "limpet-worker", "--broker", "tcp://127.0.0.1:1", "--model",
                                   EMBEDDED_MODEL, "--http", f"127.0.0.1:{port}")
            self.assert_one_line(r, 1, str(port), "in use")

    def test_settings_that_cannot_work(self):
        with tempfile.TemporaryDirectory() as folder:
            base = self.broker(folder, f"tcp://127.0.0.1:{free_port()}")
            for flags in (["--max-queued-jobs", "-1"], ["--lease-ms", "200", "--heartbeat-ms", "100"],
                          ["--start-deadline-ms", "0"], ["--max-attempts", "0"], ["--balance-factor", "nan"]):
                r, _ = self.run_limpet(*base, *flags)
                self.assert_one_line(r, 2, flags[0])
            for flags in (["--kv-host-bytes", "-1"], ["--kv-disk-bytes", "-1G"], ["--kv-host-bytes", "nan"],
                          ["--kv-disk-bytes", "99999999999999999999"]):
                r, _ = self.run_limpet(BIN / "limpet-worker", "--model", folder, *flags)
                self.assert_one_line(r, 2, flags[0])
            for flags in (["jobs", "--watch", "nan"], ["drain", "w", "--timeout", "nan"],
                          ["submit", "x", "--keep-alive", "nan"], ["jobs", "--since", "0s"],
                          ["jobs", "--give-up=nan"]):
                r, _ = self.run_limpet(BIN / "limpet", *flags)
                self.assert_one_line(r, 2, flags[-2] if flags[-1][0] != "-" else "--give-up")

    def test_a_configuration_file(self):
        with tempfile.TemporaryDirectory() as folder:
            config = pathlib.Path(folder) / "limpet.toml"
            config.write_text("[tenants.a]\nweight = -1\n")
            r, _ = self.run_limpet(*self.broker(folder, f"tcp://127.0.0.1:{free_port()}"), "--config", config)
            self.assert_one_line(r, 1, "limpet.toml:2", "weight")
            config.write_text("")
            with Cluster(BIN, workers=("one",), broker_args=("--config", config)) as cluster:
                job = Job(cluster, "Tell me a story about a fox.", *LONG, session="long")
                job.wait_for(lambda e: e["event"] == "tokens")
                for text, line in (("[tenants.a]\nweight = 'much'\n", "event=config_refused"),
                                   ("[tenant-defaults]\nmax_queued_jobs = 1\n", "event=config_reloaded")):
                    config.write_text(text)
                    cluster.broker.child.send_signal(signal.SIGHUP)
                    wait_until(line, 60, lambda: line in cluster.broker.log_tail())
                self.assertEqual(job.wait().status, 0)  # no connection was lost
                cluster.workers["one"].kill9()  # what comes now waits, and one may
                waiting = [Job(cluster, "Hello!", session=f"q{i}") for i in range(3)]
                wait_until("busy", 60, lambda: metrics(cluster.http).get(
                    'limpet_broker_rejections_total{code="busy"}', 0) > 0)
                for w in waiting:
                    w.child.kill()
                    w.wait()

    def test_a_data_folder_that_cannot_be_written(self):
        r, _ = self.run_limpet(*self.broker("/proc/limpet", f"tcp://127.0.0.1:{free_port()}"))
        self.assert_one_line(r, 1, "/proc/limpet")

    def test_two_brokers_on_one_data_folder(self):
        with Cluster(BIN, workers=()) as cluster:
            r, _ = self.run_limpet(*self.broker(cluster.folder / "data", f"tcp://127.0.0.1:{free_port()}"))
            self.assert_one_line(r, 1, "data")

    def test_off_loopback_needs_keys(self):
        with tempfile.TemporaryDirectory() as folder:
            r, _ = self.run_limpet(*self.broker(folder, f"tcp://0.0.0.0:{free_port()}"))
            self.assert_one_line(r, 1, "keys")

    def test_up_stops_on_ctrl_c_and_when_its_terminal_closes(self):
        for number in (signal.SIGINT, signal.SIGHUP):
            with self.subTest(number):
                self.up_and_stop(number)

    def up_and_stop(self, number):
        folder = tempfile.mkdtemp()
        ports = free_ports(8)  # it takes them in a row, from the first on
        up = subprocess.Popen([BIN / "limpet", "up", "--workers", "2", "--data", folder, "--port",
                               str(ports[0])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            front = f"tcp://127.0.0.1:{ports[0]}"
            wait_until("limpet up serves", 60, lambda: subprocess.run(
                [BIN / "limpet", "submit", "--broker", front, "Hello!"], capture_output=True).returncode == 0)
            up.send_signal(number)
            self.assertEqual(up.wait(60), 0)
            left = subprocess.run(["pgrep", "-f", folder], capture_output=True, text=True).stdout
            self.assertEqual(left, "", "a process outlived limpet up")
        finally:
            up.kill()
            up.stdout.close()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        BIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
