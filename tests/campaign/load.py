"""Clients of a campaign: sessions that follow plans through real `limpet` processes, which are
killed and stalled like all else, and a record of all that they were shown."""
import json
import os
import random
import signal
import subprocess
import threading
import time

from plans import PLANS
from scene import TENANTS

COALESCE_S = 0.5


class Recorder:
    """Records in order of time, to a file and to memory's running figures."""

    def __init__(self, path):
        self.lock, self.file, self.began = threading.Lock(), open(path, "w", encoding="utf-8"), time.monotonic()
        self.calls, self.last_word, self.longest_silence = 0, self.now(), (0, "")
        self.fault_names = {}

    def now(self):
        return time.monotonic() - self.began

    def write(self, op, at=None, **fields):
        with self.lock:
            record = {"op": op, "t": round(self.now() if at is None else at, 4), **fields}
            self.file.write(json.dumps(record) + "\n")

    def next_call(self):
        with self.lock:
            self.calls += 1
            return self.calls

    def faults(self):
        with self.lock:
            return ", ".join(sorted(self.fault_names.values())) or "none"

    def word(self):
        """Some client got something: how long had nobody?"""
        now = self.now()
        silence, self.last_word = now - self.last_word, now
        if silence > self.longest_silence[0]:
            self.longest_silence = (silence, self.faults())

    def close(self):
        self.file.close()


class Call:
    """One `limpet` process that follows one job, read line by line into the record."""

    def __init__(self, load, job, kind, first, argv):
        self.load, self.job, self.recorder = load, job, load.recorder
        self.number = self.recorder.next_call()
        self.last, self.lines, self.killed, self.seen = None, 0, False, first
        self.pending, self.errors = None, ""
        job.last_token = None
        self.recorder.write("call", call=self.number, kind=kind, tenant=job.tenant, session=job.session,
                            turn=job.turn, job=job.name, plan=job.plan, **{"from": first})
        self.child = load.start(job.tenant, argv)

    def kill(self):
        self.killed = True
        self.child.kill()

    def follow(self, r, disturb):
        """Reads to the end; when told so, dies or stalls on the way."""
        die_at = r.randrange(1, 60) if disturb and r.random() < 0.08 else None
        stall_at = r.randrange(1, 40) if disturb and r.random() < 0.04 else None
        timer = None
        if disturb and r.random() < 0.03:
            timer = threading.Timer(r.uniform(0.0, 0.5), self.kill)
            timer.start()
        for line in self.child.stdout:
            self.lines += 1
            self.take(json.loads(line))
            if self.lines == die_at:
                self.kill()
                break
            if self.lines == stall_at:
                self.stall(r)
        self.flush()
        self.child.stdout.read()
        self.errors = self.child.stderr.read().strip()
        self.child.wait()
        if timer:
            timer.cancel()
        self.child.stdout.close(), self.child.stderr.close()
        self.load.ended(self.child)
        self.recorder.write("return", call=self.number, by="killed" if self.killed else "itself",
                            status=self.child.returncode, stderr=self.errors[-200:])
        return self

    def stall(self, r):
        """A slow reader: its process stands still."""
        self.load.count("client stalled")
        os.kill(self.child.pid, signal.SIGSTOP)
        time.sleep(r.uniform(0.5, 4))
        os.kill(self.child.pid, signal.SIGCONT)
        self.job.last_token = None

    def take(self, event):
        self.recorder.word()
        kind = event["event"]
        if kind == "busy":  # not yet taken: the client waits
            return self.load.count("client told that the broker is busy")
        if kind == "tokens":
            return self.take_tokens(event)
        self.flush()
        if kind == "accepted":
            self.job.acknowledged.set()
            self.recorder.write("accepted", call=self.number, created=event["created"], state=event["state"])
        elif kind == "started":
            self.load.started(self.job, event)
            self.recorder.write("started", call=self.number, **{k: event[k] for k in (
                "attempt", "worker", "residency", "reason", "cached_tokens", "prefilled_tokens")})
        elif kind == "finished":
            self.recorder.write("finished", call=self.number, reason=event["reason"],
                                output_tokens=event["usage"]["output_tokens"])
        elif kind == "lost":
            self.recorder.write("lost", call=self.number, contradiction=event["contradiction"],
                                message=event["message"])
        else:
            self.recorder.write(kind, call=self.number, code=event["code"], message=event["message"])
        if kind != "accepted" and kind != "started":
            self.last = event

    def take_tokens(self, event):
        now = self.recorder.now()
        self.load.token(self.job, now)
        p = self.pending
        if p and p["first"] + len(p["ids"]) == event["first_index"] and now - p["at"] < COALESCE_S:
            p["ids"] += event["ids"]
            p["text"] += event["text"]
        else:
            self.flush()
            self.pending = {"at": now, "first": event["first_index"], "ids": list(event["ids"]), "text": event["text"]}
        self.seen = max(self.seen, event["first_index"] + len(event["ids"]))

    def flush(self):
        if self.pending:
            self.recorder.write("tokens", call=self.number, **self.pending)
            self.pending = None


class Job:
    def __init__(self, tenant, session, turn, plan, name):
        self.tenant, self.session, self.turn, self.plan, self.name = tenant, session, turn, plan, name
        self.spec = PLANS[plan][turn]
        self.acknowledged, self.over = threading.Event(), False
        self.submitted, self.last_token, self.ids_seen = None, None, 0


class Load:
    """`clients` threads, each with one session after another until it is told to stop."""

    def __init__(self, scene, recorder, seed, clients, disturb=True):
        self.scene, self.recorder, self.seed, self.disturb = scene, recorder, seed, disturb
        self.lock, self.children = threading.Lock(), set()
        self.counts, self.residencies, self.attempts = {}, {}, {}
        self.longest = {"between tokens": (0, ""), "to the first token": (0, "")}
        self.acknowledged_jobs, self.finished_jobs, self.errors = [], [], []
        self.stopping, self.abandoned = threading.Event(), threading.Event()
        self.threads = [threading.Thread(target=self.run_client, args=(i,)) for i in range(clients)]

    def begin(self):
        for t in self.threads:
            t.start()

    def start(self, tenant, argv):
        child = subprocess.Popen(
            [str(self.scene.bin / "limpet"), *argv, "--broker", self.scene.client_endpoint, *self.scene.as_(tenant)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with self.lock:
            self.children.add(child)
        return child

    def ended(self, child):
        with self.lock:
            self.children.discard(child)

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def started(self, job, event):
        key = (job.tenant, job.name, event["attempt"])
        with self.lock:
            if key in self.attempts:
                return
            self.attempts[key] = (job.turn, event["residency"], event["reason"])

    def token(self, job, now):
        what = "between tokens" if job.ids_seen else "to the first token"
        since = job.last_token if job.ids_seen else job.submitted
        job.last_token, job.ids_seen = now, job.ids_seen + 1
        if since is not None and now - since > self.longest[what][0]:
            self.longest[what] = (now - since, self.recorder.faults())

    def run_client(self, index):
        """Tenants use the same names of sessions and jobs on purpose, every other time."""
        r = random.Random(f"{self.seed}-{index}")
        tenant, number = TENANTS[index % 2], 0
        while not self.stopping.is_set():
            try:
                own = f"-{tenant}" if number % 2 else ""
                self.run_session(r, f"s{index // 2}-{number}{own}", tenant, r.choice(sorted(PLANS)))
            except Exception as e:  # of the campaign itself: it must not look like silence
                self.errors.append(f"client {index}: {e!r}")
                return
            number += 1

    def run_session(self, r, session, tenant, plan):
        """Turn by turn, or, one time in five, each turn as soon as the one before is acknowledged."""
        self.count("sessions")
        jobs = [Job(tenant, session, t, plan, f"{session}-t{t}") for t in range(len(PLANS[plan]))]
        at_once = r.random() < 0.2
        threads = []
        for job in jobs:
            if self.stopping.is_set() and not at_once:
                break
            if at_once:
                threads.append(threading.Thread(target=self.drive, args=(job, random.Random(r.random()))))
                threads[-1].start()
                while not job.acknowledged.wait(0.5) and not self.abandoned.is_set() and threads[-1].is_alive():
                    pass
            else:
                if r.random() < 0.12:  # it thinks; its KV is idle, and may have to give way
                    self.stopping.wait(r.uniform(2, 15))
                self.drive(job, r)
        for t in threads:
            t.join()

    def drive(self, job, r):
        """Until the job's outcome is known, over as many client processes as it takes."""
        self.count("jobs")
        job.submitted = self.recorder.now()
        seen = 0
        while not self.abandoned.is_set():
            if job.acknowledged.is_set() and r.random() < 0.5:
                first = r.randrange(seen + 1)
                call = Call(self, job, "attach", first, ["attach", job.name, "--json", "--from", str(first)])
            else:
                call = Call(self, job, "submit", 0, [
                    "submit", "--json", "--job", job.name, "--session", job.session, *job.spec.argv(),
                    *self.cancelling(job, r), job.spec.text])
            call.follow(r, self.disturb)
            seen = max(seen, call.seen)
            if call.killed:
                self.count("client killed")
                continue
            if call.last is None:
                self.without_a_word(job, call)
                continue
            if self.is_over(job, call.last):
                return
            time.sleep(0.3)

    def without_a_word(self, job, call):
        """A command that cannot reach the broker within its 5 seconds says so and ends."""
        if any(w in call.errors for w in ("no broker answers", "does not let us in")):
            self.count("client found no broker for 5 s")
        elif not self.abandoned.is_set():
            self.errors.append(f"{job.name}: a client ended without a word: {call.child.returncode} {call.errors}")
            time.sleep(1)

    def is_over(self, job, last):
        if last["event"] in ("finished", "failed"):
            self.finished_jobs.append(job)
            self.count("answered")
            return True
        transient = last["event"] == "lost" and not last["contradiction"] or (
            last["event"] == "refused" and last["code"] in ("storage", "no_worker", "busy", "not_found"))
        if transient:
            self.count("refused for a while")
        return not transient

    def cancelling(self, job, r):
        """For a turn that is to be cancelled, who does it; no further flags."""
        if job.spec.kind == "cancel" and not getattr(job, "cancel_begun", False):
            job.cancel_begun = True
            threading.Thread(target=self.cancel, args=(job, r.uniform(0.05, 1.0)), daemon=True).start()
        return []

    def cancel(self, job, after):
        time.sleep(after)
        while not self.abandoned.is_set():
            if job.acknowledged.wait(0.2):
                break
        if self.abandoned.is_set():
            return
        self.recorder.write("cancel", tenant=job.tenant, job=job.name)
        child = self.start(job.tenant, ["cancel", job.name])
        child.communicate()
        self.ended(child)
        self.count("cancels asked")

    # -- at the end --------------------------------------------------------------------------------

    def finish(self, patience):
        """No new sessions; what is open is waited for, then given up (which the checker tells)."""
        self.stopping.set()
        end = time.monotonic() + patience
        for t in self.threads:
            t.join(max(0.1, end - time.monotonic()))
        if any(t.is_alive() for t in self.threads):
            self.abandoned.set()
            with self.lock:
                for child in self.children:
                    child.kill()
            for t in self.threads:
                t.join(10)

    def look_again(self, most, r):
        """Jobs that are over are asked for again: all of one, from any index, by its tenant; and by
        the other one, who must not know of it."""
        jobs = self.finished_jobs if len(self.finished_jobs) <= most else r.sample(self.finished_jobs, most)
        for job in jobs:
            first = r.randrange(3) if r.random() < 0.2 else 0
            Call(self, job, "attach", first, ["attach", job.name, "--json", "--from", str(first)]).follow(r, False)
        for job in jobs[:most // 10]:
            other = Job(TENANTS[1 - TENANTS.index(job.tenant)], job.session, job.turn, job.plan, job.name)
            if other.name not in {j.name for j in self.finished_jobs if j.tenant == other.tenant}:
                Call(self, other, "probe", 0, ["attach", job.name, "--json"]).follow(r, False)
        return len(jobs)

    def recoveries(self):
        """How the attempts found their sessions: {(why there was one, residency, reason): count}."""
        out = {}
        for (_, _, attempt), (turn, residency, reason) in self.attempts.items():
            why = "attempt after a failure" if attempt > 1 else "later turn" if turn else "first turn"
            key = (why, residency, reason)
            out[key] = out.get(key, 0) + 1
        return out
