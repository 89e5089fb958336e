"""What goes wrong in a campaign, by a seed: to processes on two threads, to their surroundings on
a third, so that faults meet. Every fault ends by itself, and what was broken is healed."""
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time

from store_damage import damage_a_copy


class Faults:
    def __init__(self, scene, load, recorder, seed):
        self.scene, self.load, self.recorder, self.seed = scene, load, recorder, seed
        self.stop, self.counts, self.lock = threading.Event(), {}, threading.Lock()
        self.problems, self.hostile_words, self.damage = [], [], {}
        self.keep_open, self.rounds = [], {}
        network, scene_ = scene.network, scene
        self.processes = [(self.kill_worker, 6), (self.kill_broker, 4), (self.stop_worker, 3), (self.stop_broker, 2),
                          (self.drain_worker, 3), (self.restart_broker, 2), (self.kill_all, 1), (self.roll, 1)]
        self.surroundings = [(self.jump_clock, 3), (self.hostile_frames, 4), (self.half_open, 2), (self.wrong_keys, 2),
                             (self.damaged_store, 2)]
        self.skipped = []
        self.only_if(not network.missing, "partitions", network.missing,
                     (self.partition_worker, 4), (self.one_way_worker, 2), (self.partition_clients, 2))
        self.only_if(network.shaper or scene_.proxies, "slow links", "no netem, no tbf, no proxy", (self.slow_link, 3))
        self.only_if(scene_.disk, "a full disk", network.missing or "no small disk was asked for", (self.full_disk, 3))
        self.threads = [threading.Thread(target=self.run, args=(name, list_, pause)) for name, list_, pause in (
            ("processes", self.processes, (0.5, 3)), ("more processes", self.processes, (1, 5)),
            ("surroundings", self.surroundings, (0.3, 3)))]
        self.threads.append(threading.Thread(target=self.watch))

    def only_if(self, possible, what, why, *faults):
        if possible:
            self.surroundings += faults
        else:
            self.skipped.append(f"{what}: {why}")

    def begin(self):
        for t in self.threads:
            t.start()

    def finish(self):
        self.stop.set()
        for t in self.threads:
            t.join()
        for s in self.keep_open:
            s.close()
        self.scene.set_clock(0)

    def run(self, name, choices, pause):
        """Each kind once, in an order drawn, before chance and weight decide."""
        r = random.Random(f"{self.seed}-{name}")
        first = [] if name.startswith("more") else [f for f, _ in choices]
        r.shuffle(first)
        while not self.stop.wait(r.uniform(*pause)):
            fault = first.pop() if first else r.choices([f for f, _ in choices], [w for _, w in choices])[0]
            try:
                fault(r)
            except Exception as e:
                self.problems.append(f"{fault.__name__}: {e!r}")

    def active(self, kind, on):
        return Active(self, kind, on)

    def hold(self, seconds):
        self.stop.wait(seconds)

    def watch(self):
        """A process that ends though nobody ended it."""
        while not self.stop.wait(0.3):
            for m in self.scene.machines():
                if m.lock.acquire(blocking=False):  # who holds it knows why it is down
                    try:
                        self.look_at(m)
                    finally:
                        m.lock.release()

    def look_at(self, m):
        if not m.wanted or m.alive():
            return
        self.problems.append(f"{m.name} ended by itself with {m.child.returncode}: {m.log_tail(3)[-400:]}")
        m.start()

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    # -- to processes ------------------------------------------------------------------------------

    def worker(self, r):
        return self.scene.workers[r.choice(sorted(self.scene.workers))]

    def kill(self, machine, r):
        with machine.lock, self.active("kill -9", machine.name):
            machine.kill9()
            self.hold(r.uniform(0.05, 2))
            machine.start()

    def kill_worker(self, r):
        self.kill(self.worker(r), r)

    def kill_broker(self, r):
        self.kill(self.scene.broker, r)

    def kill_all(self, r):
        """The power goes, for all at once."""
        with self.active("kill -9 of all", "all"):
            for m in self.scene.machines():  # always in this order: nobody waits for ever
                m.lock.acquire()
            for m in self.scene.machines():
                m.kill9()
            self.hold(r.uniform(0.1, 1))
            for m in self.scene.machines():
                m.start()
                m.lock.release()

    def suspend(self, machine, seconds):
        with machine.lock, self.active("SIGSTOP", machine.name):
            if not machine.alive():
                return
            machine.child.send_signal(signal.SIGSTOP)
            self.hold(seconds)
            machine.child.send_signal(signal.SIGCONT)

    def stop_worker(self, r):
        self.suspend(self.worker(r), r.uniform(0.5, 6))

    def stop_broker(self, r):
        self.suspend(self.scene.broker, r.uniform(0.5, 5))

    def drain_worker(self, r):
        machine = self.worker(r)
        with machine.lock, self.active("drain", machine.name):
            machine.wanted = False
            if r.random() < 0.5 or not machine.alive():
                status = machine.stop(60)
            else:
                self.scene.limpet("ops", "drain", machine.name, "--no-wait", "--give-up", 20, timeout=60)
                try:
                    status = machine.child.wait(15)
                except subprocess.TimeoutExpired:  # the request was lost with a broker
                    status = machine.stop(60)
            if not machine.ended_well(status):
                self.problems.append(f"{machine.name}: a drained worker's exit status is {status}: "
                                     + machine.log_tail(3)[-300:])
            machine.start()

    def restart_broker(self, r):
        with self.scene.broker.lock, self.active("restart", "broker"):
            status = self.scene.broker.stop(60)
            if not self.scene.broker.ended_well(status):
                self.problems.append(f"broker: exit status {status} after SIGTERM: "
                                     + self.scene.broker.log_tail(3)[-300:])
            self.scene.broker.start()

    def roll(self, r):
        """Workers, one after another, and the broker between them."""
        with self.active("rolling restart", "all"):
            for name in sorted(self.scene.workers):
                machine = self.scene.workers[name]
                with machine.lock:
                    machine.stop(60)
                    machine.start()
                self.hold(1)
            self.restart_broker(r)

    # -- to their surroundings ---------------------------------------------------------------------

    def partition(self, kind, cut, node, seconds):
        with self.active(kind, node):
            cut(node)
            try:
                self.hold(seconds)
            finally:
                self.scene.network.heal(node)

    def partition_worker(self, r):
        self.partition("partition", self.scene.network.cut, r.choice(sorted(self.scene.workers)), r.uniform(0.5, 9))

    def one_way_worker(self, r):
        self.partition("partition one way", self.scene.network.cut_one_way, r.choice(sorted(self.scene.workers)),
                       r.uniform(0.5, 9))

    def partition_clients(self, r):
        self.partition("partition", self.scene.network.cut, "clients", r.uniform(0.5, 6))

    def slow_link(self, r):
        node = r.choice(["clients", *sorted(self.scene.workers)])
        with self.active("slow link", node):
            if self.scene.network.shaper:
                self.scene.network.slow(node, r.choice([64, 256, 1000]))
                self.hold(r.uniform(2, 8))
                self.scene.network.heal(node)
            else:
                for proxy in self.scene.proxies.values():
                    proxy.rate = r.choice([8_000, 32_000, 125_000])
                self.hold(r.uniform(2, 8))
                for proxy in self.scene.proxies.values():
                    proxy.rate = 0

    def full_disk(self, r):
        filler = self.scene.data / "filler"
        with self.active("full disk", "broker"):
            end = time.monotonic() + r.uniform(1, 4)
            while time.monotonic() < end and not self.stop.is_set():
                with open(filler, "ab") as f:
                    free = shutil.disk_usage(self.scene.data).free
                    try:
                        os.posix_fallocate(f.fileno(), f.tell(), max(free, 4096))
                    except OSError:
                        pass
                self.hold(0.1)
            filler.unlink()

    def jump_clock(self, r):
        with self.active("clock jump", "all"):
            for _ in range(r.randrange(1, 4)):
                self.scene.set_clock(r.choice([-1, 1]) * r.choice([1500, 60_000, 7_200_000, 86_400_000 * 400]))
                self.hold(r.uniform(0.3, 3))
            if r.random() < 0.5:
                self.scene.set_clock(0)

    def damaged_store(self, r):
        """A copy of the store with a flipped bit or a torn page: named, or harmless; never served."""
        with self.scene.broker.lock, self.active("damaged store", "a copy"):
            self.scene.broker.kill9()
            copy = self.scene.folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.scene.data / "store", copy)
            self.scene.broker.start()
        outcome, wrong = damage_a_copy(self.scene, copy, self.load, r)
        shutil.rmtree(copy, ignore_errors=True)
        with self.lock:
            self.damage[outcome] = self.damage.get(outcome, 0) + 1
        self.problems += wrong

    def next_of(self, name, all_of_them, r):
        """Each in turn, in an order drawn anew each time round."""
        left = self.rounds.setdefault(name, [])
        if not left:
            left += r.sample(all_of_them, len(all_of_them))
        return left.pop()

    # -- from outside ------------------------------------------------------------------------------

    def hostile_frames(self, r):
        mode = self.next_of("modes", ["random", "mutated", "giant", "flood", "replay", "impostor"], r)
        works = mode in ("replay", "impostor") or mode != "flood" and r.random() < 0.5
        # Workers' port, over the clients' link: it is the broker's machine all the same.
        port = self.scene.ports[1] if works else self.scene.ports[0]
        endpoint = f"tcp://{self.scene.network.broker_from('clients')}:{port}"
        who = "worker" if works else "mallory"
        with self.active("hostile " + mode, who):
            self.let_loose(mode, endpoint, who, r)

    def let_loose(self, mode, endpoint, who, r):
        argv = [str(self.scene.bin / "hostile_peer"), mode, endpoint, str(r.uniform(1, 4)), str(r.randrange(1, 1 << 40))]
        if who:
            argv += [str(self.scene.folder / who), str(self.scene.folder / "server.pub")]
        p = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        if p.returncode != 0:
            raise RuntimeError(f"hostile_peer {mode}: {p.returncode} {p.stderr[-200:]}")
        word = json.loads(p.stdout)
        with self.lock:
            self.hostile_words.append(word)
        return word

    def wrong_keys(self, r):
        """No key, a key that is not listed, and keys of the other role."""
        host = self.scene.network.broker_from("clients")
        front, back = (f"tcp://{host}:{p}" for p in self.scene.ports)
        endpoint, who = self.next_of("keys", [(front, None), (back, None), (front, "stranger"), (back, "stranger"),
                                              (front, "worker"), (back, "mallory")], r)
        mode = r.choice(["replay", "mutated"] if endpoint == back else ["flood", "mutated"])
        with self.active("wrong key", str(who)):
            word = self.let_loose(mode, endpoint, who, r)
        if who in (None, "stranger") and word["answers"] > 0:
            self.problems.append(f"a peer without a listed key ({who}) was answered {word['answers']} times")

    def half_open(self, r):
        """Connections that begin a greeting and say no more, that send bytes of any kind, that go."""
        host = self.scene.network.broker_from("clients")
        with self.active("half-open connections", "broker"):
            for s in self.keep_open[:-200]:
                s.close()
            del self.keep_open[:-200]
            greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(47)
            http = int(self.scene.http.rpartition(":")[2])
            for _ in range(100):
                try:
                    s = socket.create_connection((host, r.choice([*self.scene.ports, http])), 2)
                    s.settimeout(2)
                    s.sendall(r.choice([b"", greeting[:r.randrange(1, 64)], greeting, greeting + os.urandom(500),
                                        os.urandom(2000), b"GET / HTTP/1.1\r\nX: "]))
                    self.keep_open.append(s)
                except OSError:
                    continue
            self.hold(r.uniform(0.5, 2))


class Active:
    """A fault while it lasts: counted, and in the record."""

    def __init__(self, faults, kind, on):
        self.faults, self.kind, self.on = faults, kind, on

    def __enter__(self):
        self.faults.count(self.kind)
        recorder = self.faults.recorder
        recorder.write("fault", what=self.kind, on=self.on, phase="begin")
        with recorder.lock:
            recorder.fault_names[id(self)] = f"{self.kind} ({self.on})"

    def __exit__(self, *_):
        recorder = self.faults.recorder
        with recorder.lock:
            del recorder.fault_names[id(self)]
        recorder.write("fault", what=self.kind, on=self.on, phase="end")
