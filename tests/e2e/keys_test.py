"""Keys and tenants, seen from outside: real processes, a broker that other machines could reach.

  python3 tests/e2e/keys_test.py BIN_DIR [unittest arguments]
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from cluster import EMBEDDED_MODEL, Cluster, Job, Process, metrics, wait_until

BIN = pathlib.Path("build/bin")


class Keys:
    """Key files of a name each, and the allow-list, in a folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.public = {}
        for name in ("server", "acme", "zeta", "ops", "worker", "stranger"):
            r = subprocess.run([BIN / "limpet", "keygen", self.folder / name], capture_output=True, text=True)
            assert r.returncode == 0, r.stderr
            self.public[name] = r.stdout.strip()
        self.lines = {"acme": "client acme", "zeta": "client zeta", "ops": "admin ops", "worker": "worker"}
        self.allow("acme", "zeta", "ops", "worker")

    def allow(self, *names):
        new = self.folder / "keys.new"
        new.write_text("".join(f"{self.lines[n]} {self.public[n]}\n" for n in names))
        new.rename(self.folder / "keys")

    def as_(self, name):
        """The flags of a program that holds this key."""
        return ["--key", str(self.folder / name), "--server-public-key", str(self.folder / "server.pub")]


class WithKeys(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory(prefix="limpet-keys-")
        self.keys = Keys(self.scratch.name)
        self.cluster = Cluster(
            BIN, workers=("one",), frontend_host="0.0.0.0", worker_args=self.keys.as_("worker"),
            client_args=self.keys.as_("acme"),
            broker_args=("--server-key", self.keys.folder / "server", "--keys", self.keys.folder / "keys"))
        self.cluster.__enter__()

    def tearDown(self):
        self.cluster.close()
        self.scratch.cleanup()

    def limpet(self, who, *args, broker=None):
        """A command by the holder of this key; None: without one."""
        flags = [] if who is None else self.keys.as_(who)
        return subprocess.run([BIN / "limpet", *map(str, args), "--broker", broker or self.cluster.endpoint,
                               *flags], capture_output=True, text=True, timeout=60)

    def listed(self, who, what, key):
        r = self.limpet(who, what, "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        return sorted(f'{row["tenant"]}/{row[key]}' for row in map(json.loads, r.stdout.splitlines()))

    def refused(self, reason):
        return metrics(self.cluster.http).get(f'limpet_broker_handshakes_refused_total{{reason="{reason}"}}', 0)

    def test_who_may_not_come_in_is_told_and_counted(self):
        # In clear both ends notice; who is second only sees that the other has gone.
        cases = (("stranger", self.keys.as_("stranger"), "does not know this key", ["unknown_key"]),
                 ("in clear", [], "asks for keys", ["mechanism", "broken_off"]),
                 ("another broker's key", ["--key", str(self.keys.folder / "acme"), "--server-public-key",
                                           self.keys.public["stranger"]], "than the public one", ["wrong_server_key"]))
        for name, flags, told, reasons in cases:
            with self.subTest(name):
                r = subprocess.run([BIN / "limpet", "jobs", "--broker", self.cluster.endpoint, *flags],
                                   capture_output=True, text=True, timeout=60)
                self.assertEqual(r.returncode, 1)
                self.assertEqual(r.stderr.count("\n"), 1, r.stderr)
                self.assertIn(told, r.stderr)
                wait_until(str(reasons), 60, lambda: sum(map(self.refused, reasons)) >= 1)
        self.assertTrue(self.cluster.submit("Hello!").finished)

    def test_a_role_is_for_its_port(self):
        for command in (("submit", "Hello!"), ("attach", "j"), ("cancel", "j"), ("jobs",), ("sessions",), ("workers",),
                        ("retry", "j"), ("release", "s"), ("drain", "one")):
            r = self.limpet("worker", *command)
            self.assertEqual(r.returncode, 1, command)
            self.assertIn("a worker's key cannot ask for jobs", r.stderr, command)
        def forbidden():
            return metrics(self.cluster.http).get('limpet_broker_rejections_total{code="forbidden"}', 0)

        before = forbidden()
        self.assertGreater(before, 0)
        intruder = Process("intruder", [BIN / "limpet-worker", "--broker", self.cluster.backend, "--model",
                                        EMBEDDED_MODEL, "--name", "intruder", "--http", "",
                                        *self.keys.as_("acme")], self.keys.folder / "intruder.log")
        intruder.start()
        try:
            wait_until("it is told", 60, lambda: "a client's key cannot work" in intruder.log_tail())
            self.assertGreater(forbidden(), before)
            names = [json.loads(row)["worker"] for row in self.limpet("ops", "workers", "--json").stdout.splitlines()]
            self.assertEqual(names, ["one"])
        finally:
            intruder.stop()

    def test_tenants_do_not_see_each_other(self):
        mine = self.cluster.submit("My name is Ada.", "--job", "same", session="chat")
        self.assertTrue(mine.finished)
        r = self.limpet("zeta", "submit", "--json", "--job", "same", "--session", "chat", "What is my name?")
        theirs = [json.loads(line) for line in r.stdout.splitlines()]
        self.assertEqual(r.returncode, 0, r.stderr)
        started = next(e for e in theirs if e["event"] == "started")
        self.assertEqual((started["reason"], started["cached_tokens"]), ("new_session", 0),
                         "another tenant's session, or a prefix of its KV")
        self.assertNotIn("Ada", "".join(e["text"] for e in theirs if e["event"] == "tokens"))

        self.assertTrue(self.cluster.submit("Hello!", "--job", "secret", session="chat").finished)
        for command in ("attach", "cancel"):
            r = self.limpet("zeta", command, "secret")
            self.assertEqual(r.returncode, 1)
            self.assertIn("no such job", r.stderr)
        self.assertEqual(self.listed("zeta", "sessions", "session"), ["zeta/chat"])
        self.assertEqual(self.listed("zeta", "jobs", "job"), ["zeta/same"])
        self.assertEqual(self.listed("ops", "sessions", "session"), ["acme/chat", "zeta/chat"])
        for what in ("jobs", "sessions"):
            r = self.limpet("zeta", what, "--tenant", "acme")
            self.assertEqual((r.returncode, r.stdout), (1, ""))
            self.assertIn("only an admin's key may name another tenant", r.stderr)

        # The same failure of two tenants is two rows that can be told apart, and done again.
        for who in ("acme", "zeta"):
            self.assertEqual(self.limpet(who, "submit", "--raw", "--job", "long", "word " * 9000).returncode, 1)
        header, *rows = [line.split() for line in self.limpet("ops", "jobs", "--failed").stdout.splitlines()]
        self.assertEqual((header[4], header[-1]), ("WORKER", "TENANT"))
        self.assertEqual(sorted(row[-1] for row in rows), ["acme", "zeta"])
        self.assertTrue(all("one" in row for row in rows), rows)

        # Who owns what outlives the process.
        self.cluster.broker.kill9()
        self.cluster.broker.start()
        self.cluster.wait_ready()
        self.assertEqual(self.listed("zeta", "jobs", "job"), ["zeta/long", "zeta/same"])
        self.assertEqual(self.limpet("zeta", "attach", "secret").returncode, 1)
        self.assertEqual(self.limpet("acme", "attach", "secret").returncode, 0)
        self.assertIn("Ada", self.cluster.submit("What is my name?", session="chat").text)

    def test_the_list_is_read_again_while_all_goes_on(self):
        long = Job(self.cluster, "Tell me a story about a fox.", "--max-tokens", 900, "--ignore-eos", "--seed", 3)
        long.wait_for(lambda e: e["event"] == "tokens")
        self.assertEqual(self.limpet("zeta", "jobs").returncode, 0)
        self.keys.allow("acme", "ops", "worker")
        wait_until("zeta is out", 60, lambda: self.limpet("zeta", "jobs").returncode == 1)
        (self.keys.folder / "keys").write_text("client acme\n")
        self.cluster.broker.child.send_signal(signal.SIGHUP)
        wait_until("why is logged", 60, lambda: "line 1: write: client TENANT KEY" in self.cluster.broker.log_tail())
        self.assertEqual(self.limpet("acme", "jobs").returncode, 0)
        before = self.refused("unknown_key")
        waiting = subprocess.Popen([BIN / "limpet", "submit", "--broker", self.cluster.endpoint, "--give-up", "120",
                                    "Hello!", *self.keys.as_("zeta")],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until("zeta is refused", 60, lambda: self.refused("unknown_key") > before)
        self.keys.allow("acme", "zeta", "ops", "worker")
        self.assertEqual(waiting.wait(60), 0, "was not let in once its key was listed")
        waiting.stdout.close(), waiting.stderr.close()
        reply = long.wait()
        self.assertTrue(reply.finished, reply.errors)
        self.assertEqual((len(reply.ids), len(reply.started)), (900, 1))

    def test_a_key_that_leaves_the_list_is_cut_off_in_mid_stream(self):
        long = Job(self.cluster, "Tell me a story about a fox.", "--max-tokens", 1500, "--ignore-eos", "--seed", 3)
        long.wait_for(lambda e: e["event"] == "tokens")
        with self.cluster.held("one"):
            self.keys.allow("zeta", "ops", "worker")
            reply = long.wait()
        self.assertEqual(reply.status, 1)
        self.assertLess(len(reply.ids), 1500)
        self.assertIn("no longer", reply.errors + json.dumps(reply.events[-1]))


class HandOver(unittest.TestCase):
    """Between workers that have keys, each its own."""

    def test_a_drained_workers_session_goes_to_its_peer(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = Keys(folder)
            with Cluster(BIN, workers=("one", "two"), client_args=keys.as_("ops"),
                         worker_args=[*keys.as_("worker"), "--grace-ms", "30000"],
                         broker_args=("--server-key", keys.folder / "server", "--keys", keys.folder / "keys")) as c:
                # The second with a key of its own.
                c.workers["two"].stop()
                argv = c.workers["two"].argv
                argv[argv.index(str(keys.folder / "worker"))] = str(keys.folder / "zeta")
                keys.lines["zeta"] = "worker"
                keys.allow("ops", "worker", "zeta")
                c.workers["two"].start()
                c.wait_ready()
                first = c.submit("My name is Ada.", session="chat")
                home = first.started[0]["worker"]
                r = c.limpet("drain", home, timeout=60)
                self.assertEqual(r.returncode, 0, r.stderr)
                after = c.submit("What is my name?", session="chat")
                self.assertEqual(after.started[0]["residency"], "migrated", c.workers[home].log_tail())
                self.assertIn("Ada", after.text)


class WithoutOne(unittest.TestCase):
    """What ends, or never begins."""

    def test_off_loopback_programs_ask_for_keys(self):
        far = "tcp://192.0.2.1:5555"
        for argv in (["limpet-worker", "--http", "", "--broker", far], ["limpet", "jobs", "--broker", far]):
            r = subprocess.run([BIN / argv[0], *argv[1:]], capture_output=True, text=True, timeout=60)
            self.assertEqual((r.returncode, r.stderr.count("\n")), (1, 1), r.stderr)
            self.assertIn("keys are required off loopback", r.stderr)

    def test_keys_that_are_half_there_or_open_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = Keys(folder)
            base = [BIN / "limpet-broker", "--data", f"{folder}/data", "--http", ""]
            r = subprocess.run([*base, "--keys", f"{folder}/keys"], capture_output=True, text=True, timeout=60)
            self.assertEqual((r.returncode, r.stderr.count("\n")), (2, 1), r.stderr)
            os.chmod(keys.folder / "server", 0o644)
            r = subprocess.run([*base, "--keys", f"{folder}/keys", "--server-key", f"{folder}/server"],
                               capture_output=True, text=True, timeout=60)
            self.assertEqual((r.returncode, r.stderr.count("\n")), (1, 1), r.stderr)
            self.assertIn("chmod 600", r.stderr)
            r = subprocess.run([BIN / "limpet", "keygen", f"{folder}/acme"], capture_output=True, text=True)
            self.assertEqual(r.returncode, 1)
            self.assertIn("is there already", r.stderr)

    def test_the_end_of_the_thread_that_checks_keys_ends_the_broker(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = Keys(folder)
            fault = f"{folder}/fault"
            broker = subprocess.Popen(
                [BIN / "limpet-broker", "--data", f"{folder}/data", "--http", "", "--frontend", "tcp://127.0.0.1:*",
                 "--backend", "tcp://127.0.0.1:*", "--server-key", keys.folder / "server", "--keys",
                 keys.folder / "keys"], stderr=subprocess.PIPE, text=True,
                env={**os.environ, "LD_PRELOAD": str(BIN / "libzap_fault.so"), "ZAP_FAULT": fault,
                     "ASAN_OPTIONS": "verify_asan_link_order=0"})
            try:
                self.assertIn("event=started", broker.stderr.readline())
                self.assertIsNone(broker.poll())
                pathlib.Path(fault).touch()
                self.assertEqual(broker.wait(60), 1)
                self.assertIn("the thread that checks keys has ended", broker.stderr.read())
            finally:
                broker.kill()
                broker.wait()
                broker.stderr.close()


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        BIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
