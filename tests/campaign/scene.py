"""The processes of a campaign: a broker and workers, each on its machine, with keys and tenants."""
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from cluster import EMBEDDED_MODEL, Process, free_port, http_get, wait_until  # noqa: E402

from slow_proxy import SlowProxy  # noqa: E402

WORKERS = ("one", "two", "three")
TENANTS = ("acme", "zeta")
CONFIG = """[tenants."mallory"]
max_queued_jobs = 50
max_running_jobs = 1
[tenants."zeta"]
weight = 2
"""


class Machine(Process):
    """A process, and who may touch it: one fault at a time."""

    def __init__(self, name, argv, log, environment):
        super().__init__(name, argv, log)
        self.lock, self.environment, self.wanted = threading.RLock(), environment, False

    def start(self):
        with open(self.log, "ab") as log:
            self.log_begins = log.tell()
            self.child = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          env=self.environment)
        self.wanted = True

    def kill9(self):
        self.wanted = False
        super().kill9()

    def stop(self, seconds=60.0):
        self.wanted = False
        return super().stop(seconds)

    def ended_well(self, status):
        """Status 0 after SIGTERM; or the signal's own, when it came before the program had begun."""
        if status == 0:
            return True
        with open(self.log, "rb") as log:
            log.seek(self.log_begins)
            return status == -signal.SIGTERM and not log.read().strip()

    def resident_kb(self):
        try:
            for line in open(f"/proc/{self.child.pid}/status"):
                if line.startswith("VmRSS"):
                    return int(line.split()[1])
        except OSError:
            pass
        return 0


class Scene:
    def __init__(self, bin_dir, folder, network, broker_args=(), worker_args=(), disk_mb=0, clock=True):
        self.bin, self.folder, self.network = pathlib.Path(bin_dir).resolve(), pathlib.Path(folder), network
        self.folder.mkdir(parents=True, exist_ok=True)
        self.draw_keys()
        self.clock = self.folder / "clock"
        self.set_clock(0)
        self.data = self.folder / "data"
        self.data.mkdir(exist_ok=True)
        self.disk = bool(disk_mb) and not network.missing
        if self.disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_mb}m", "none", self.data], check=True)
        front, back, http = free_port(), free_port(), free_port()
        host = network.broker_from("clients")
        self.environment = dict(os.environ, SHIFTED_CLOCK=str(self.clock))
        if clock and "ASAN_OPTIONS" not in os.environ:
            self.environment["LD_PRELOAD"] = str(self.bin / "libshifted_clock.so")
        self.frontend, self.http = f"tcp://{host}:{front}", f"{host}:{http}"
        self.ports = (front, back)
        everywhere = "127.0.0.1" if network.missing else "0.0.0.0"
        (self.folder / "config.toml").write_text(CONFIG)
        self.broker = Machine("broker", [
            *network.inside("broker"), self.bin / "limpet-broker", "--frontend", f"tcp://{everywhere}:{front}",
            "--backend", f"tcp://{everywhere}:{back}", "--http", f"{everywhere}:{http}", "--data", self.data / "store",
            "--server-key", self.folder / "server", "--keys", self.folder / "keys",
            "--config", self.folder / "config.toml", *broker_args], self.folder / "broker.log", self.environment)
        self.proxies = {}
        self.workers = {}
        for name in WORKERS:
            self.workers[name] = Machine(name, [
                *network.inside(name), self.bin / "limpet-worker", "--broker",
                f"tcp://{self.way_to_broker(name, back)}", "--model", EMBEDDED_MODEL, "--device", "cpu",
                "--threads", "1", "--name", name, "--http", "", "--transfer", f"ipc://{self.folder}/{name}.transfer",
                *self.as_("worker"), *worker_args], self.folder / f"worker-{name}.log", self.environment)
        self.client_endpoint = f"tcp://{self.way_to_broker('clients', front)}"

    def way_to_broker(self, node, port):
        """Over the link; through a proxy where no link can be slowed."""
        host = self.network.broker_from(node)
        if node in ("clients", WORKERS[-1]) and self.network.missing or (
                node == "clients" and not self.network.shaper):
            self.proxies[node] = SlowProxy(host, port)
            return f"127.0.0.1:{self.proxies[node].port}"
        return f"{host}:{port}"

    def draw_keys(self):
        self.keys = {"server": "", "worker": "worker", "ops": "admin ops", "mallory": "client mallory",
                     "stranger": None, **{t: f"client {t}" for t in TENANTS}}
        allow = []
        for name, line in self.keys.items():
            r = subprocess.run([self.bin / "limpet", "keygen", self.folder / name], capture_output=True, text=True)
            if r.returncode != 0:
                raise RuntimeError(r.stderr)
            if line:
                allow.append(f"{line} {r.stdout.strip()}\n")
        (self.folder / "keys").write_text("".join(allow))

    def as_(self, name):
        return ["--key", str(self.folder / name), "--server-public-key", str(self.folder / "server.pub")]

    def set_clock(self, shift_ms):
        mode = "r+b" if self.clock.exists() else "w+b"
        with open(self.clock, mode) as f:
            f.write(int(shift_ms).to_bytes(8, "little", signed=True))

    def machines(self):
        return [self.broker, *self.workers.values()]

    def start(self):
        for m in self.machines():
            m.start()
        self.wait_ready()

    def wait_ready(self, seconds=120):
        """The broker is ready, and so is every worker."""
        def ready():
            for m in self.machines():
                if m.wanted and not m.alive():
                    raise RuntimeError(f"{m.name} died:\n{m.log_tail()}")
            status, page = http_get(self.http, "/workers")
            return status == 200 and page.count('"ready"') >= len(self.workers)
        wait_until("broker and workers are ready", seconds, ready)

    def close(self):
        for m in [*self.workers.values(), self.broker]:
            with m.lock:
                m.wanted = False
                if m.alive():
                    m.child.terminate()
        for m in self.machines():
            m.stop(20)
        if self.disk:
            time.sleep(0.1)
            subprocess.run(["umount", "-l", self.data], check=False)

    def limpet(self, who, *args, timeout=120):
        return subprocess.run([str(self.bin / "limpet"), *map(str, args), "--broker", self.client_endpoint,
                               *self.as_(who)], capture_output=True, text=True, timeout=timeout)
