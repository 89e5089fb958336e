"""Real limpet processes on this machine: start, ask, kill -9, restart. Standard library only.

Limits of time are for what never comes, not for slow machines: they are long, and cost nothing
where all is well. What must not have ended yet is held (`Cluster.held`), not made long.
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMBEDDED_MODEL = ROOT / "models" / "limpet-tiny"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def free_ports(n):
    """The first of n ports in a row that are free, and the others."""
    while True:
        first = free_port()
        held = []
        try:
            for port in range(first, first + n):
                held.append(socket.socket())
                held[-1].bind(("127.0.0.1", port))
            return list(range(first, first + n))
        except (OSError, OverflowError):
            continue
        finally:
            for s in held:
                s.close()


def http_get(address, path, timeout=10.0):
    """(status, body); status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=timeout) as r:
            return r.status, r.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
    except OSError:
        return 0, ""


def metrics(address):
    """{name{labels}: value} of a /metrics page."""
    out = {}
    for line in http_get(address, "/metrics")[1].splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.rpartition(" ")
            out[key] = float(value)
    return out


def wait_until(what, seconds, condition):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"{what}: not within {seconds} s")


class Process:
    """One program whose stderr goes to a file; remembers how to start it again."""

    def __init__(self, name, argv, log):
        self.name, self.argv, self.log, self.child = name, [str(a) for a in argv], log, None

    def start(self):
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def alive(self):
        return self.child is not None and self.child.poll() is None

    def kill9(self):
        if self.alive():
            self.child.send_signal(signal.SIGKILL)
        if self.child:
            self.child.wait()

    def stop(self, seconds=60.0):
        """SIGTERM, and the exit status; SIGKILL (and -9) when it does not go in time."""
        if self.alive():
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(seconds) if self.child else 0
        except subprocess.TimeoutExpired:
            self.kill9()
            return -9

    def log_tail(self, lines=20):
        text = pathlib.Path(self.log).read_text(errors="replace") if os.path.exists(self.log) else ""
        return "\n".join(text.splitlines()[-lines:])


class Cluster:
    """A broker and named workers on free ports, with their data in a folder of their own."""

    def __init__(self, bin_dir, workers=("one", "two"), model=EMBEDDED_MODEL, broker_args=(),
                 worker_args=(), folder=None, client_args=(), frontend_host="127.0.0.1", device="cpu"):
        self.client_args = [str(a) for a in client_args]  # of every `limpet` command
        self.bin = pathlib.Path(bin_dir).resolve()
        self.own_folder = folder is None
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="limpet-e2e-"))
        front, back, http = free_port(), free_port(), free_port()
        self.endpoint = f"tcp://127.0.0.1:{front}"
        self.backend = f"tcp://127.0.0.1:{back}"
        self.http = f"127.0.0.1:{http}"
        self.broker = Process("broker", [
            self.bin / "limpet-broker", "--frontend", f"tcp://{frontend_host}:{front}", "--backend", self.backend,
            "--http", self.http, "--data", self.folder / "data", *broker_args],
            self.folder / "broker.log")
        self.workers, self.worker_http = {}, {}
        for name in workers:
            address = f"127.0.0.1:{free_port()}"
            self.worker_http[name] = address
            self.workers[name] = Process(name, [
                self.bin / "limpet-worker", "--broker", self.backend, "--model", model, "--device",
                device, "--threads", "1", "--name", name, "--http", address, *worker_args],
                self.folder / f"worker-{name}.log")

    def __enter__(self):
        self.broker.start()
        for w in self.workers.values():
            w.start()
        try:
            self.wait_ready()
        except TimeoutError:
            self.close()
            raise
        return self

    def __exit__(self, *exc):
        self.close(keep=exc[0] is not None)

    def wait_ready(self, seconds=60):
        def ready(process, address):
            if not process.alive():
                raise RuntimeError(f"{process.name} died:\n{process.log_tail()}")
            return http_get(address, "/readyz")[0] == 200

        wait_until("broker ready", seconds, lambda: ready(self.broker, self.http))
        for name, w in self.workers.items():
            wait_until(f"worker {name} ready", seconds, lambda: ready(w, self.worker_http[name]))

    @contextlib.contextmanager
    def held(self, name):
        """The worker stands still meanwhile: its jobs have not ended, however fast the machine is.
        Longer than the lease (3 s), and it is lost."""
        self.workers[name].child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.workers[name].child.send_signal(signal.SIGCONT)

    def close(self, keep=False):
        for p in [*self.workers.values(), self.broker]:
            p.stop()
        if self.own_folder and not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- the `limpet` command ---------------------------------------------------------------------

    def limpet(self, *args, timeout=120, check=False):
        r = subprocess.run([str(self.bin / "limpet"), *map(str, args), "--broker", self.endpoint,
                            *self.client_args],
                           capture_output=True, text=True, timeout=timeout)
        if check and r.returncode != 0:
            raise RuntimeError(f"limpet {args}: exit {r.returncode}: {r.stderr.strip()}")
        return r

    def submit(self, text, *args, session=None, timeout=120):
        """Runs one job to its end; what the client saw, as a Reply."""
        job = Job(self, text, *args, session=session)
        return job.wait(timeout)


class Job:
    """One `limpet submit --json` process, read line by line."""

    def __init__(self, cluster, text, *args, session=None):
        argv = [str(cluster.bin / "limpet"), "submit", "--json", "--broker", cluster.endpoint,
                *cluster.client_args]
        if session:
            argv += ["--session", session]
        self.child = subprocess.Popen(argv + [str(a) for a in args] + ["--", text],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.events, self.changed, self.errors = [], threading.Condition(), ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            with self.changed:
                self.events.append(json.loads(line))
                self.changed.notify_all()
        self.errors = self.child.stderr.read()

    def wait_for(self, condition, seconds=120):
        """The first event that fulfils the condition."""
        def found():
            return next((e for e in self.events if condition(e)), None)
        with self.changed:
            if not self.changed.wait_for(lambda: found() is not None, seconds):
                raise TimeoutError(f"no such event in {self.events[-3:]}")
            return found()

    def wait(self, timeout=120):
        self.child.wait(timeout)
        self.reader.join(10)
        self.child.stdout.close()
        self.child.stderr.close()
        return Reply(self.events, self.child.returncode, self.errors)


class Reply:
    """What a client saw of one job. Raises AssertionError where its tokens contradict."""

    def __init__(self, events, status, errors):
        self.events, self.status, self.errors = events, status, errors.strip()
        self.started = [e for e in events if e["event"] == "started"]
        self.ids, self.text = [], ""
        for e in events:
            if e["event"] == "tokens":
                first = e["first_index"]
                assert first == len(self.ids), f"token {len(self.ids)} expected, got {first}"
                self.ids += e["ids"]
                self.text += e["text"]
        ends = [e for e in events if e["event"] in ("finished", "failed")]
        assert len(ends) <= 1, f"{len(ends)} ends"
        self.end = ends[0] if ends else None

    @property
    def finished(self):
        return self.end is not None and self.end["event"] == "finished"
