"""That the benches of the engine and of a worker's parts run, and by their counters that they measure
what they say."""
import json
import subprocess
import sys


def bench(bin_dir, *args):
    r = subprocess.run([f"{bin_dir}/limpet-bench", *args, "--shapes", "qwen2-tiny", "--threads", "1"],
                       capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


# What an engine's line has, whatever its figures: what had to be read, how fast this process can
# read, their fraction, and that nothing was moved but by those whose purpose it is.
READING = {
    "decode": ["--points", "2x32", "--steps", "4"],
    "turn2": ["--context", "256", "--new", "16"],
    "bucket": ["--context", "256", "--steps", "4"],
    "prefill": ["--context", "256", "--chunk", "64", "--steps", "4"],
    "copyback": ["--context", "256", "--steps", "2"],
    "spill": ["--context", "256", "--batch", "2", "--steps", "4"],
}


def reads(bin_dir):
    for name, options in READING.items():
        line = bench(bin_dir, name, *options)
        for field in ("bytes", "read_bandwidth", "fraction", "engine_steps"):
            assert line[field] > 0, (field, line)
        assert (line["kv_bytes_moved"] > 0) == (name in ("copyback", "spill")), line
        assert line["weight_bytes_moved"] == 0, line


def main(bin_dir):
    reads(bin_dir)
    s = bench(bin_dir, "spill", "--context", "400", "--chunk", "128", "--batch", "2", "--steps", "4",
              "--disk-bytes", "1")
    assert s["pages"] == 25 and s["kv_bytes"] == 25 * s["page_bytes"], s
    assert s["spilled_bytes"] >= 7 * s["kv_bytes"] and s["spilled_bytes"] % s["kv_bytes"] == 0, s
    assert s["restored_bytes"] >= 7 * s["kv_bytes"], s
    assert s["bytes_spilled_beside_decode"] > 0 and s["bytes_restored_beside_decode"] > 0, s
    assert s["weight_bytes_moved"] == 0, s

    # All sessions fit: nothing is computed twice.
    args = ["serve", "--sessions", "24", "--batch", "4", "--beside", "3", "--shortest", "20", "--longest",
            "90", "--new", "5", "--output", "8", "--steps", "40", "--prompt", "200", "--chunk", "16",
            "--budget", "32"]
    v = bench(bin_dir, *args)
    assert v["steps"] == 40 and 0 < v["decode_steps"] <= 40, v
    assert v["evictions"] == v["preemptions"] == v["spilled_sessions"] == 0, v
    assert v["started_reprefilled"] == 24 + 1, v  # first turns, and the prompt that came late
    assert v["started_resident"] > 4, v
    assert v["prompt_steps"] >= 200 // 16, v

    # They do not, but there is memory below: still nothing is.
    v = bench(bin_dir, *args, "--kv-tokens", "1200", "--host-bytes", str(1 << 26))
    assert v["evictions"] == 0 and v["started_reprefilled"] == 24 + 1, v
    assert v["started_restored"] > 4 and v["spilled_sessions"] > 4, v

    # On the CPU a step gives the same bits on both engines.
    d = bench(bin_dir, "decode", "--context", "100", "--steps", "4", "--batch", "3", "--check")
    assert d["right"] and d["check_relative_error"] == 0, d
    assert d["check_rows"] == d["check_same_tokens"] == 3, d
    assert d["programs"] > 0 and d["fused_programs"] == 0, d
    t = bench(bin_dir, "turn2", "--context", "100", "--new", "40", "--chunk", "32", "--check")
    assert t["right"] and t["check_relative_error"] == 0 and t["check_rows"] == 1, t

    # Borders at 64, 128 and 256; a model's weights are allocated once, whatever the buckets.
    b = bench(bin_dir, "bucket", "--context", "300", "--chunk", "16", "--steps", "4")
    assert b["buckets"] > 12 and b["crossings"] == 3, b
    assert b["crossing_over_steady"] > 0 and b["steady_step_seconds"] > 0, b
    assert 1 <= b["weight_bytes_allocated_over_model"] < 1.2, b
    print("the benches measure what they say")


if __name__ == "__main__":
    main(sys.argv[1])
