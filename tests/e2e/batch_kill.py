"""`limpet batch` on the embedded model while the client, then a worker, then the broker are killed
with -9 and started again: each custom_id is answered once, and neither the client's nor the broker's
memory grows with the file.

  python3 tests/e2e/batch_kill.py --bin build/bin --lines 20000
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from cluster import Cluster

SESSIONS = 7


def request(i):
    text = ["What is 2 plus 3?", "Spell garden.", "Hello!", "Good morning."][i % 4]
    line = {"custom_id": f"line-{i}", "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": text}], "max_tokens": 12,
                     "temperature": 0}}
    if i % 50 == 1:  # a few lines belong to sessions
        line["session"] = f"session-{i % SESSIONS}"
    if i % 10 == 3:
        line["url"], line["body"] = "/v1/completions", {"prompt": f"{i} and", "max_tokens": 4}
    return json.dumps(line)


def memory(pid):
    """Resident bytes that are the process's own."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


class Run:
    def __init__(self, cluster, source, target, concurrency):
        self.argv = [str(cluster.bin / "limpet"), "batch", str(source), "-o", str(target),
                     "--concurrency", str(concurrency), "--broker", cluster.endpoint]
        self.target, self.cluster = target, cluster
        self.memory = {"client": [], "broker": []}
        self.start()

    def start(self):
        self.child = subprocess.Popen(self.argv, stderr=subprocess.PIPE, text=True)

    def answered(self):
        return self.target.read_bytes().count(b"\n") if self.target.exists() else 0

    def wait_for(self, lines, seconds):
        """Until so many lines are answered or the client ends; memory is noted on the way."""
        end, note_at = time.monotonic() + seconds, 0
        while self.answered() < lines and self.child.poll() is None:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.answered()} of {lines} lines answered in {seconds} s")
            if time.monotonic() >= note_at:
                note_at = time.monotonic() + 0.25
                self.note_memory()
            time.sleep(0.01)

    def note_memory(self):
        for name, pid in (("client", self.child.pid), ("broker", self.cluster.broker.child.pid)):
            try:
                self.memory[name].append((self.answered(), memory(pid)))
            except FileNotFoundError:
                pass


def check(target, lines):
    count = collections.Counter()
    for line in target.read_text().splitlines():
        answer = json.loads(line)
        assert answer["error"] is None and answer["response"]["status_code"] == 200, line
        count[answer["custom_id"]] += 1
    assert len(count) == lines and set(count.values()) == {1}, count.most_common(3)


def grown(samples, lines):
    """How many bytes each answered line has cost, over the last half of the run."""
    late = [(n, m) for n, m in samples if n >= lines // 4 and m > 0]
    if len(late) < 2 or late[-1][0] == late[0][0]:
        return 0.0
    return (late[-1][1] - late[0][1]) / (late[-1][0] - late[0][0])


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--bin", default="build/bin")
    args.add_argument("--lines", type=int, default=20000)
    args.add_argument("--concurrency", type=int, default=48)
    args.add_argument("--seconds", type=int, default=3600)
    a = args.parse_args()
    with tempfile.TemporaryDirectory() as folder, \
            Cluster(a.bin, broker_args=("--lease-ms", 1000)) as cluster:
        source, target = pathlib.Path(folder) / "in.jsonl", pathlib.Path(folder) / "out.jsonl"
        with open(source, "w") as f:
            for i in range(a.lines):
                f.write(request(i) + "\n")
        began = time.monotonic()
        run = Run(cluster, source, target, a.concurrency)
        run.wait_for(a.lines // 4, a.seconds)
        run.child.kill()
        run.child.wait()
        print(f"client killed at {run.answered()} lines", flush=True)
        run.start()
        run.wait_for(a.lines // 2, a.seconds)
        worker = cluster.workers["one"]
        worker.kill9()
        worker.start()
        print(f"worker killed at {run.answered()} lines", flush=True)
        run.wait_for(a.lines * 3 // 4, a.seconds)
        cluster.broker.kill9()
        cluster.broker.start()
        print(f"broker killed at {run.answered()} lines", flush=True)
        run.wait_for(a.lines + 1, a.seconds)  # until the client ends
        said = run.child.stderr.read()
        assert run.child.returncode == 0, said
        check(target, a.lines)
        seconds = time.monotonic() - began
        for name, samples in run.memory.items():
            most = max((m for _, m in samples), default=0)
            print(f"{name}: at most {most / 1e6:.1f} MB, {grown(samples, a.lines):.0f} bytes a line")
        print(f"{a.lines} lines, each answered once, in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
