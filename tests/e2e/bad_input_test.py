"""Bad input at every surface: it is that request's error, in one line, and everything else goes on.

  python3 tests/e2e/bad_input_test.py BIN_DIR [unittest arguments]
"""
import json
import os
import pathlib
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from cluster import EMBEDDED_MODEL, Cluster, http_get, wait_until

BIN = pathlib.Path("build/bin")
MB = 1 << 20


def connect(endpoint):
    host, port = endpoint.removeprefix("tcp://").split(":")
    return socket.create_connection((host, int(port)), 60)


def read_exactly(s, n):
    heard = b""
    while len(heard) < n:
        part = s.recv(n - len(heard))
        if not part:
            raise ConnectionError(f"closed after {heard!r}")
        heard += part
    return heard


def zmtp(endpoint):
    """A DEALER's connection, greeted (ZMTP 3.0, NULL): https://rfc.zeromq.org/spec/23/"""
    s = connect(endpoint)
    s.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    read_exactly(s, 64)
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    s.sendall(b"\x04" + bytes([len(ready)]) + ready)
    read_exactly(s, read_exactly(s, 2)[1])
    return s


def say(s, payload):
    s.sendall(b"\x00" + bytes([len(payload)]) + payload)


def envelope(identifier, major):
    """The least frame that has a version: a root table with one field."""
    return struct.pack("<I4sHHHHiHH", 16, identifier, 6, 8, 4, 0, 8, major, 0)


def in_a_small_disk(script, *args, size):
    """Runs a shell script in a mount namespace of its own, with a tmpfs at $DISK."""
    mount = f'mount -t tmpfs -o size={size} none "$DISK" && {script}'
    return ["unshare", "-rm", "sh", "-c", mount, "sh", *map(str, args)]


def can_mount():
    with tempfile.TemporaryDirectory() as folder:
        r = subprocess.run(in_a_small_disk("true", size="64k"), capture_output=True,
                           env={**os.environ, "DISK": folder})
        return r.returncode == 0


class OneClusterTest(unittest.TestCase):
    def assert_one_line(self, r, status, *words):
        said = r.stderr if isinstance(r.stderr, str) else r.stderr.decode(errors="replace")
        self.assertEqual(r.returncode, status, said)
        lines = [x for x in said.splitlines() if x.strip()]
        self.assertEqual(len(lines), 1, said)
        self.assertLess(len(lines[0]), 500)
        for w in words:
            self.assertIn(w, lines[0])


class Requests(OneClusterTest):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(BIN, workers=("one",)).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close()

    def tearDown(self):
        self.assertTrue(self.cluster.submit("Hello!").finished, "the others go on")

    def run_limpet(self, *args, **more):
        return subprocess.run([BIN / "limpet", *args, "--broker", self.cluster.endpoint],
                              capture_output=True, timeout=120, **more)

    def test_a_prompt_of_100_mb(self):
        r = self.run_limpet("submit", "-", input=b"word " * (20 * MB))
        self.assert_one_line(r, 2, "8388608")

    def test_sampling_parameters_that_are_no_numbers_or_negative(self):
        for flag, value in [("--temperature", "nan"), ("--temperature", "-1"), ("--top-p", "nan"),
                            ("--temperature", "inf"), ("--top-p", "-0.5"), ("--max-tokens", "-3")]:
            r = self.run_limpet("submit", flag, value, "Hello!")
            self.assertIn(r.returncode, (1, 2), (flag, value))
            self.assert_one_line(r, r.returncode)

    def test_text_that_is_not_utf8(self):
        r = self.run_limpet("submit", "--max-tokens", "5", b"\xff\xfe caf\xe9 \xc3\x28 \xed\xa0\x80")
        self.assertEqual(r.returncode, 0, r.stderr)
        r.stdout.decode()  # what comes back is UTF-8

    def test_a_batch_of_lines_that_are_all_bad(self):
        with tempfile.TemporaryDirectory() as folder:
            source, target = pathlib.Path(folder) / "in", pathlib.Path(folder) / "out"
            good = {"custom_id": "good", "body": {"messages": [{"role": "user", "content": "Hi"}]}}
            nan = '{"custom_id": "nan", "body": {"messages": [], "temperature": NaN}}'
            low = {"custom_id": "low", "body": {**good["body"], "temperature": -2}}
            big = b'{"custom_id": "big", "body": {"prompt": "' + b"x" * (100 * MB) + b'"}}'
            deep = b'{"custom_id": "deep", "body": ' + b"[" * MB
            lines = [nan.encode(), json.dumps(low).encode(), big, deep, b"\xff\xfe", b"{}",
                     json.dumps(good).encode()]
            source.write_bytes(b"\n".join(lines) + b"\n")
            r = self.run_limpet("batch", source, "-o", target)
            self.assert_one_line(r, 1, "6 requests failed")
            answers = [json.loads(x) for x in target.read_text().splitlines()]
            self.assertEqual([a["custom_id"] for a in answers if a["error"] is None], ["good"])
            self.assertEqual(sum(a["error"] is not None for a in answers), 6)

    def test_a_peer_of_another_major_version(self):
        for endpoint, identifier in [(self.cluster.endpoint, b"LPCB"), (self.cluster.backend, b"LPWB")]:
            with zmtp(endpoint) as s:
                say(s, envelope(identifier, 9))
                s.settimeout(60)
                heard = b""
                while b"upgrade" not in heard:
                    part = s.recv(4096)
                    self.assertTrue(part, f"{identifier}: closed after {heard!r}")
                    heard += part
        self.assertTrue(self.cluster.broker.alive())

    def test_bytes_that_are_no_frames(self):
        for endpoint in (self.cluster.endpoint, self.cluster.backend):
            with zmtp(endpoint) as s:
                for payload in (b"", b"x", os.urandom(200), b"\xff" * 60, b"GET / HTTP/1.1\r\n\r\n"):
                    say(s, payload)
            with connect(endpoint) as s:
                s.sendall(os.urandom(4096))
        with connect("tcp://" + self.cluster.http) as s:
            s.sendall(b"GET " + b"/" * 100000)
        self.assertEqual(http_get(self.cluster.http, "/livez")[0], 200)

    def test_ten_thousand_connections_that_say_nothing(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = min(10000, hard - 500)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        sockets = []
        try:
            for i in range(wanted):
                sockets.append(connect(self.cluster.endpoint if i % 4 else self.cluster.backend))
            self.assertTrue(self.cluster.submit("Hello!").finished)
            self.assertTrue(self.cluster.submit("Hello!", session="among-many").finished)
            self.assertEqual(http_get(self.cluster.http, "/readyz")[0], 200)
        finally:
            for s in sockets:
                s.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_silent_connections_to_the_metrics_port(self):
        sockets = [connect("tcp://" + self.cluster.http) for _ in range(200)]
        try:
            wait_until("metrics are told", 60, lambda: http_get(self.cluster.http, "/metrics", 20)[0] == 200)
        finally:
            for s in sockets:
                s.close()


class Models(OneClusterTest):
    def folder_with(self, folder, name, text):
        target = pathlib.Path(folder) / "model"
        target.mkdir()
        for file in EMBEDDED_MODEL.iterdir():
            if file.is_file() and file.name != name:
                os.symlink(file, target / file.name)
        (target / name).write_text(text)
        return target

    def test_a_template_that_loops_for_ever_fails_its_jobs_alone(self):
        loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        with tempfile.TemporaryDirectory() as folder:
            model = self.folder_with(folder, "chat_template.jinja", loops)
            # Under sanitizers the bounds are reached only after the ordinary lease has ended.
            with Cluster(BIN, workers=("one",), model=model,
                         broker_args=("--lease-ms", 30000)) as cluster:
                began = time.monotonic()
                reply = cluster.submit("Hello!")
                self.assertLess(time.monotonic() - began, 60)
                self.assertEqual((reply.status, reply.end["event"]), (1, "failed"))
                self.assertIn("template", reply.end["message"])
                self.assertTrue(cluster.submit("Hello!", "--raw").finished)

    def test_a_config_that_lies_about_sizes(self):
        config = json.loads((EMBEDDED_MODEL / "config.json").read_text())
        for key, value in [("hidden_size", 131072), ("num_hidden_layers", 1000),
                           ("vocab_size", 1 << 24), ("num_attention_heads", 0), ("head_dim", 10**9)]:
            with tempfile.TemporaryDirectory() as folder:
                model = self.folder_with(folder, "config.json", json.dumps({**config, key: value}))
                r = subprocess.run([BIN / "limpet-worker", "--broker", "tcp://127.0.0.1:1", "--model",
                                    model, "--http", ""], capture_output=True, timeout=60)
                self.assert_one_line(r, 1)


@unittest.skipUnless(can_mount(), "no mount namespaces for this user")
class FullDisk(OneClusterTest):
    def test_of_the_client(self):
        with tempfile.TemporaryDirectory() as folder, Cluster(BIN, workers=("one",)) as cluster:
            source, copy = pathlib.Path(folder) / "in.jsonl", pathlib.Path(folder) / "copy"
            (disk := pathlib.Path(folder) / "disk").mkdir()
            with open(source, "w") as f:
                for i in range(300):
                    f.write(json.dumps({"custom_id": f"c{i}", "url": "/v1/completions",
                                        "body": {"prompt": "Once", "max_tokens": 2}}) + "\n")
            batch = '"$1" batch "$2" -o "$DISK/out" --broker "$3"'
            script = (f'{batch}; echo first $?; mount -o remount,size=8m "$DISK"; {batch}; '
                      'echo second $?; cp "$DISK/out" "$4"')
            r = subprocess.run(in_a_small_disk(script, BIN / "limpet", source, cluster.endpoint, copy,
                                               size="48k"), capture_output=True, text=True,
                               env={**os.environ, "DISK": str(disk)}, timeout=120)
            self.assertEqual(r.stdout.split(), ["first", "1", "second", "0"], r.stderr)
            self.assertEqual(len(r.stderr.strip().splitlines()), 1, r.stderr)
            ids = [json.loads(x)["custom_id"] for x in copy.read_text().splitlines()]
            self.assertEqual(sorted(ids), sorted(f"c{i}" for i in range(300)))
            self.assertTrue(cluster.submit("Hello!").finished)

    def test_of_the_broker(self):
        with tempfile.TemporaryDirectory() as folder:
            (disk := pathlib.Path(folder) / "disk").mkdir()
            cluster = Cluster(BIN, workers=("one",))
            # In the namespace: $DISK is small; the broker's own file system is reached through /proc.
            cluster.broker.argv = in_a_small_disk('exec "$@"', *cluster.broker.argv[:-1], disk / "data",
                                                  size="3m")
            os.environ["DISK"] = str(disk)
            with cluster:
                self.assertTrue(cluster.submit("My name is Ada.", session="s").finished)
                inside = pathlib.Path(f"/proc/{cluster.broker.child.pid}/root{disk}")
                filler = inside / "filler"
                with open(filler, "wb", buffering=0) as f:
                    try:
                        while f.write(bytes(4096)):
                            pass
                    except OSError:
                        pass
                # What the log has room for may still be taken.
                for _ in range(60):
                    r = cluster.limpet("submit", "--raw", "--max-tokens", "1", "--give-up", "20",
                                       "x" * 100000)
                    if "too_long" not in r.stderr:
                        break
                self.assert_one_line(r, 1, "disk is full")
                self.assertTrue(cluster.broker.alive())
                for worker in cluster.workers.values():
                    self.assertTrue(worker.alive())
                filler.unlink()
                cluster.wait_ready()
                again = cluster.submit("What is my name?", session="s")
                self.assertIn("Ada", again.text)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        BIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
