"""A worker whose device is lost in mid-job: it ends with one line and status 1, its jobs go on at
another worker at the same index, and nothing that was acknowledged is lost."""
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from cluster import Cluster, Job  # noqa: E402


def texts(jobs):
    replies = [j.wait() for j in jobs]
    for r in replies:
        assert r.finished, (r.end, r.errors)
    return [r.text for r in replies], replies


def submit(cluster, n):
    return [Job(cluster, f"Tell me a story about animal number {i}.", "--max-tokens", 40, "--ignore-eos",
                "--seed", i, session=f"s{i}") for i in range(n)]


def main(bin_dir):
    with Cluster(bin_dir, workers=("sound",)) as c:
        undisturbed, _ = texts(submit(c, 6))
    with Cluster(bin_dir, workers=("doomed",)) as c:
        doomed = c.workers["doomed"]
        sound = Cluster(bin_dir, workers=("sound",), folder=c.folder)
        worker = sound.workers["sound"]
        worker.argv[worker.argv.index("--broker") + 1] = c.backend
        doomed.stop()
        doomed.argv[0] = str(pathlib.Path(bin_dir) / "limpet-worker-faulty")
        # All of them wait before there is a worker: its runs are the same ones on every machine.
        jobs = submit(c, 6)
        for j in jobs:
            j.wait_for(lambda e: e["event"] == "accepted")
        # Past the few runs of the first prompts, before the end of any job.
        os.environ["LIMPET_LOSE_DEVICE_AT_RUN"] = "25"
        doomed.start()
        del os.environ["LIMPET_LOSE_DEVICE_AT_RUN"]
        for j in jobs:
            j.wait_for(lambda e: e["event"] == "tokens")
        worker.start()
        status = doomed.child.wait(120)
        assert status == 1, status
        last = doomed.log_tail(1)
        assert last.startswith("limpet-worker: the device has failed"), last
        try:
            again, replies = texts(jobs)
        finally:
            worker.stop()
        assert again == undisturbed, (again, undisturbed)
        moved = [r for r in replies if len(r.started) == 2]
        assert len(moved) == len(jobs), "each was at work when the device was lost"
        for r in moved:
            assert r.started[1]["reason"] == "worker_lost", r.started
        print(f"{len(moved)} of {len(jobs)} jobs moved; all answered as undisturbed")


if __name__ == "__main__":
    main(sys.argv[1])
