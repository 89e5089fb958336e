"""The report of a campaign: what was done to it, what clients saw, the verdict. Markdown and JSON."""
import json


def table(title, rows, head):
    if not rows:
        return []
    out = [f"## {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    out += ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]
    return out + [""]


def recoveries(rows):
    return [(why, residency, "" if reason == "none" else reason, n) for (why, residency, reason), n in
            sorted(rows.items())]


def write(folder, f):
    """`f`: the figures, as campaign.py collects them. Returns the path of the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {**f, "recoveries": [dict(zip(("found", "residency", "reason", "attempts"), row))
                                 for row in recoveries(f["recoveries"])]}
    (folder / "report.json").write_text(json.dumps(plain, indent=1) + "\n")
    lines = ["# Reliability campaign", "", f"**Verdict: {f['verdict']}**", ""]
    lines += [f"Seed {f['seed']}, {f['seconds']:.0f} s under load and faults on {f['cores']} cores, "
              f"{f['clients']} clients, workers {', '.join(f['workers'])}.", ""]
    lines += table("Summary", f["summary"].items(), ("", ""))
    s = f["simulation"]
    if s["to"] > s["from"]:
        lines += [f"Simulated: seeds {s['from']} to {s['to'] - 1} in {s['seconds']:.0f} s "
                  f"(`limpet-sim --seeds {s['from']}..{s['to']}`).", ""]
        lines += table("Simulation", s["done"].items(), ("what", "how many"))
    else:
        lines += ["No seeds were simulated.", ""]
    lines += table("Work", sorted(f["load"].items()), ("what", "how many"))
    lines += table("Faults", sorted(f["faults"].items()), ("fault", "times"))
    if f["skipped"]:
        lines += ["Not done here:", "", *[f"* {line}" for line in f["skipped"]], ""]
    lines += table("Damaged copies of the store", sorted(f["damage"].items()), ("outcome", "times"))
    lines += table("Hostile peers", [(m, n["peers"], n["frames"], n["bytes"], n["answers"]) for m, n in
                                     sorted(f["hostile"].items())], ("mode", "peers", "frames", "bytes", "answers"))
    lines += table("How attempts found their sessions", recoveries(f["recoveries"]),
                   ("", "residency", "reason", "attempts"))
    lines += table("Longest stalls", [(k, f"{v[0]:.2f}", v[1]) for k, v in f["stalls"].items()],
                   ("what clients waited for", "seconds", "faults at its end"))
    lines += table("Memory at the end", sorted(f["memory_mb"].items()), ("process", "MiB resident"))
    lines += ["## Judged", "", f"{f['records']} records of {f['calls']} client processes; "
              f"{f['asked_again']} jobs asked for again at the end.", ""]
    lines += [f"* {line}" for line in f["violations"][:50]] or ["No violation."]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    return folder / "report.md"
