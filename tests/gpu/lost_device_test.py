"""What becomes of a worker and its jobs when its GPU fails or is full, on a real card.

  python3 tests/gpu/lost_device_test.py BIN_DIR DEVICE [unittest arguments]

The faults are real ones of the card, brought about in the worker's process (gpu_fault.cu). Where
there is no such device nothing is tested, and that is said.
"""
import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from cluster import EMBEDDED_MODEL, Cluster, Job, wait_until  # noqa: E402

BIN, DEVICE = pathlib.Path("build/bin"), "cuda:0"
LONG = ("--max-tokens", 1500, "--ignore-eos", "--seed", 3)


def faulty(argv, **environment):
    """The same program with the fault beside it."""
    words = [f"{name}={value}" for name, value in environment.items()]
    return ["env", f"LD_PRELOAD={BIN / 'libgpu_fault.so'}", *words, *argv]


def complaints(log):
    return [line for line in pathlib.Path(log).read_text().splitlines()
            if line.startswith("limpet-worker: ")]


class LostDevice(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster(BIN, worker_args=("--kv-tokens", 16384), device=DEVICE)
        self.orders = {}
        for name, worker in self.cluster.workers.items():
            self.orders[name] = self.cluster.folder / f"{name}.order"
            worker.argv = faulty(worker.argv, LIMPET_GPU_FAULT=self.orders[name])

    def order(self, name, text):
        """Whole at once: the worker looks for the file all the time."""
        part = self.orders[name].with_suffix(".part")
        part.write_text(text + "\n")
        part.rename(self.orders[name])

    def test_jobs_of_a_worker_whose_device_fails_go_to_another(self):
        with self.cluster as cluster:
            jobs = [Job(cluster, "Tell me a story about a fox.", *LONG, session=f"s{i}")
                    for i in range(4)]
            homes = []
            for job in jobs:
                homes.append(job.wait_for(lambda e: e["event"] == "started")["worker"])
                job.wait_for(lambda e: e["event"] == "tokens")
            lost = homes[0]
            self.order(lost, "trap")
            self.assertEqual(cluster.workers[lost].child.wait(20), 1)
            lines = complaints(cluster.workers[lost].log)
            self.assertEqual(len(lines), 1, lines)
            self.assertIn("the GPU has failed", lines[0])
            print(lines[0])
            for job, home in zip(jobs, homes):
                reply = job.wait(60)
                self.assertTrue(reply.finished, (reply.end, reply.errors))
                self.assertEqual(len(reply.ids), 1500)  # and no index twice: Reply sees to that
                moved = [e["worker"] for e in reply.started]
                self.assertEqual(moved[0], home)
                if home == lost:
                    self.assertNotEqual(moved[-1], lost)
            self.assertTrue(all(w.alive() for n, w in cluster.workers.items() if n != lost))

    def test_a_device_that_others_have_filled_serves_on(self):
        with self.cluster as cluster:
            job = Job(cluster, "Tell me a story about a fox.", *LONG)
            home = job.wait_for(lambda e: e["event"] == "started")["worker"]
            self.order(home, "take 1000000")
            log = cluster.workers[home].log
            taken = wait_until("the memory is taken", 20, lambda: re.search(
                r"gpu_fault: left (\d+) bytes", pathlib.Path(log).read_text()))
            self.assertLess(int(taken[1]), 8 << 20)
            reply = job.wait(60)
            self.assertTrue(reply.finished, (reply.end, reply.errors))
            again = cluster.submit("What is 2 plus 3?", "--max-tokens", 20)
            self.assertTrue(again.finished, (again.end, again.errors))
            self.assertTrue(all(w.alive() for w in cluster.workers.values()))


class FullDevice(unittest.TestCase):
    def test_a_worker_that_finds_no_memory_says_so_in_one_line(self):
        argv = [BIN / "limpet-worker", "--broker", "tcp://127.0.0.1:9", "--model", EMBEDDED_MODEL,
                "--device", DEVICE, "--http", "", "--kv-tokens", 1 << 20]
        for leave in (0, 1 << 20, 24 << 20):
            r = subprocess.run([str(a) for a in faulty(argv, LIMPET_GPU_LEAVE=leave)],
                               capture_output=True, text=True, timeout=60)
            self.assertEqual(r.returncode, 1, r.stderr)
            lines = [line for line in r.stderr.splitlines() if line.startswith("limpet-worker: ")]
            self.assertEqual(len(lines), 1, r.stderr)
            self.assertIn("out of memory", lines[0])
            print(lines[0])


def there():
    """Whether this machine has the device; says why not."""
    golden = EMBEDDED_MODEL.parents[1] / "tests/golden/limpet-tiny/golden.safetensors"
    r = subprocess.run([BIN / "limpet", "verify", "--model", EMBEDDED_MODEL, "--golden", golden,
                        "--device", DEVICE], capture_output=True, text=True, timeout=60)
    if f"no {DEVICE.split(':')[0]} device is there" not in r.stderr:
        return True
    print("nothing was tested:", r.stderr.strip())
    return False


if __name__ == "__main__":
    BIN, DEVICE = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    if there():
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
