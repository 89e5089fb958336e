"""A copy of a broker's store, damaged as disks damage things, and a broker started on it."""
import json
import subprocess
import time

from scene import Machine, free_port

PAGE = 4096


def flip_a_bit(content, r):
    at = r.randrange(len(content) * 8)
    content[at // 8] ^= 1 << (at % 8)
    return f"bit {at}"


def tear_a_page(content, r):
    """Some sectors of one page are not what was written: other bytes, or none."""
    page = r.randrange(max(1, len(content) // PAGE))
    sectors = [s for s in range(8) if r.random() < 0.5] or [r.randrange(8)]
    for s in sectors:
        at = page * PAGE + s * 512
        part = content[at:at + 512]
        content[at:at + len(part)] = bytes(len(part)) if r.random() < 0.5 else r.randbytes(len(part))
    return f"sectors {sectors} of page {page}"


def damage_a_copy(scene, copy, load, r):
    """(what became of it, violations). A broker that starts on it must tell the truth about all that
    it tells; one that does not must say that the store is damaged."""
    files = [f for f in (copy / "limpet.sqlite", copy / "limpet.sqlite-wal") if f.exists() and f.stat().st_size > 0]
    target = r.choice(files)
    content = bytearray(target.read_bytes())
    harm = r.choice([flip_a_bit, flip_a_bit, tear_a_page])
    what = f"{harm(content, r)} of {target.name}"
    target.write_bytes(content)
    front, back = free_port(), free_port()
    log = scene.folder / "damaged-broker.log"
    log.unlink(missing_ok=True)
    broker = Machine("copy", [scene.bin / "limpet-broker", "--frontend", f"tcp://127.0.0.1:{front}", "--backend",
                              f"tcp://127.0.0.1:{back}", "--http", "", "--data", copy, "--server-key",
                              scene.folder / "server", "--keys", scene.folder / "keys"], log, scene.environment)
    broker.start()
    try:
        return judge(scene, broker, f"tcp://127.0.0.1:{front}", load, r, what)
    finally:
        broker.kill9()


def wait_for_word(broker):
    """Until it has started or ended."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not broker.alive() or "event=started" in broker.log_tail(50):
            return
        time.sleep(0.05)


def judge(scene, broker, endpoint, load, r, what):
    wait_for_word(broker)
    if not broker.alive():
        return named(broker, what)
    known = list(load.finished_jobs)  # those that ended before the copy was made, but for a few
    wrong = []
    for job in r.sample(known, min(len(known), 12)):
        p = subprocess.run([str(scene.bin / "limpet"), "attach", job.name, "--json", "--give-up", "5", "--broker",
                            endpoint, *scene.as_(job.tenant)], capture_output=True, text=True, timeout=60)
        events = [json.loads(line) for line in p.stdout.splitlines()]
        ids = [i for e in events if e["event"] == "tokens" for i in e["ids"]]
        expected = load.reference[(job.plan, job.turn)]["ids"]
        if ids != expected[:len(ids)]:
            wrong.append(f"damaged store ({what}): {job.tenant}/{job.name} is told wrong")
        if any(e["event"] == "finished" and e["reason"] in ("stop", "length") for e in events) and ids != expected:
            wrong.append(f"damaged store ({what}): {job.tenant}/{job.name} is told short")
        if not broker.alive():
            outcome, more = named(broker, what)
            return outcome, wrong + more
    mended = "store_mended" in broker.log.read_text(errors="replace")
    return ("put right" if mended else "harmless: what was asked for was right"), wrong


def named(broker, what):
    tail = broker.log_tail(5)
    if "damaged" in tail or "not a sound limpet store" in tail:
        return "found and named", []
    return "ended", [f"damaged store ({what}): the broker ended without naming it: {tail[-300:]}"]
