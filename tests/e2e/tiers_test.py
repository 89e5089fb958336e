"""Sessions whose KV waits in host memory and on disk, through real processes: turns answer as on
resident KV and say `restored`, the broker and the worker count them, and nothing is left behind."""
import sys

from cluster import Cluster, metrics, wait_until

NAMES = ["Ada", "Fiona", "Carmen", "Ivan", "Sven", "Grace", "Jana"]
SMALL = ["--dtype", "f32", "--kv-tokens", 128, "--kv-least-tokens", 1]


def two_rounds(cluster):
    """First turns of all sessions, then second ones: the replies of both."""
    replies = [cluster.submit(f"My name is {n}.", "--max-tokens", 24, session=n) for n in NAMES]
    replies += [cluster.submit("What is my name?", "--max-tokens", 24, session=n) for n in NAMES]
    assert all(r.finished for r in replies), [r.errors for r in replies]
    return replies


def check_restored(bin_dir, expected, tier, *flags):
    with Cluster(bin_dir, workers=("one",), worker_args=[*SMALL, *flags]) as c:
        replies = two_rounds(c)
        assert [r.text for r in replies] == expected, [r.text for r in replies]
        later = [r.started[-1]["residency"] for r in replies[len(NAMES):]]
        assert later.count("restored") >= 4 and "reprefilled" not in later, later
        told = metrics(c.http)['limpet_broker_dispatches_total{residency="restored"}']
        assert told == later.count("restored"), (told, later)

        def counted():
            m = metrics(c.worker_http["one"])
            return m.get(f'limpet_worker_kv_restores_total{{outcome="restored",tier="{tier}"}}',
                         m.get(f'limpet_worker_kv_restores_total{{tier="{tier}",outcome="restored"}}', 0))
        assert wait_until("the worker counts them", 60, counted) > 0
        # What is asked to be resident takes what comes back for it.
        r = c.submit("What is my name?", "--max-tokens", 24, "--require-resident", session=NAMES[0])
        assert r.finished and "Ada" in r.text, (r.text, r.errors)


def main(bin_dir):
    with Cluster(bin_dir, workers=("one",), worker_args=["--dtype", "f32"]) as c:
        replies = two_rounds(c)
        expected = [r.text for r in replies]
        assert all(n in t for n, t in zip(NAMES, expected[len(NAMES):])), expected
        assert all(r.started[-1]["residency"] == "resident" for r in replies[len(NAMES):])
    check_restored(bin_dir, expected, "host", "--kv-host-bytes", "64M")
    with Cluster(bin_dir, workers=("one",), worker_args=SMALL) as c:
        again = two_rounds(c)
        assert [r.text for r in again] == expected
        assert any(r.started[-1]["reason"] == "evicted" for r in again), "the pool is not too small"
    page = 5 * 2 * 2 * 16 * 64 * 4  # bytes, or some like them: the host holds a few sessions
    check_restored(bin_dir, expected, "disk", "--kv-host-bytes", 12 * page, "--kv-disk-bytes", "64M")
    with Cluster(bin_dir, workers=("one",), worker_args=[*SMALL, "--kv-host-bytes", "200k"]) as c:
        assert "event=short_host_tier" in c.workers["one"].log_tail(200), "who cannot be kept is told"
    print("turns on restored KV answer as on resident KV")


if __name__ == "__main__":
    main(sys.argv[1])
