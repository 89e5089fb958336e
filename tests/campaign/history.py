"""Judges a history: what clients asked, what they were shown and when, against what limpet promises.

A history is a list of records, one JSON object each, in order of time `t` (seconds):

  {"op": "call", "call": 7, "kind": "submit" | "attach" | "probe", "tenant", "session", "turn",
   "job", "plan", "from": 0}                        a client begins to follow a job, from an index
  {"op": "accepted", "call", "created", "state"}    what that call was shown, in order
  {"op": "started", "call", "attempt", "worker", "residency", "reason"}
  {"op": "tokens", "call", "first", "ids", "text"}
  {"op": "finished", "call", "reason", "output_tokens"}
  {"op": "failed" | "refused", "call", "code", "message"}
  {"op": "lost", "call", "contradiction", "message"}
  {"op": "return", "call", "by": "itself" | "killed"}
  {"op": "cancel", "tenant", "job"}                 somebody asked to cancel it

A reference says what an undisturbed run replies: {(plan, turn): {"ids", "text", "reason"}}. Every
session follows a plan, whose turns say what may come of them: "plain" (the reference, whatever
happens), "cancel" and "deadline" (the reference or a beginning of it), "resident" (the reference,
or not_resident).

What is judged is linearizability, of each job as a register that is written once, token by token,
and of each session as a sequence of turns: there is one order, it agrees with real time, and each
answer is what the one before it allows.
"""
import collections
import json
import pathlib
import sys

OVER = ("finished", "failed", "cancelled", "expired")


class Call:
    def __init__(self, record):
        self.number, self.kind, self.begun = record["call"], record["kind"], record["t"]
        self.first = self.next = record.get("from", 0)
        self.text, self.over, self.attempt = "", False, 0


class Job:
    """All that was ever shown of one job, by whatever call."""

    def __init__(self, record):
        self.tenant, self.name = record["tenant"], record["job"]
        self.session, self.turn, self.plan = record["session"], record["turn"], record["plan"]
        self.asked = record["t"]        # first call
        self.created = 0
        self.acknowledged = None        # when
        self.tokens = []                # by index; None: not shown yet
        self.first_token = None         # when
        self.attempt = 0                # highest shown
        self.outcome, self.ended = None, None
        self.outcome_count = None       # output tokens that its end told
        self.text = None                # of a call that saw all of it
        self.cancelled = False

    def __str__(self):
        return f"{self.tenant}/{self.name} (session {self.session}, turn {self.turn})"


class Checker:
    def __init__(self, reference, turn_kind):
        self.reference = reference
        self.turn_kind = turn_kind  # (plan, turn) -> plain | cancel | deadline | resident
        self.jobs, self.calls, self.of_call = {}, {}, {}
        self.sessions = collections.defaultdict(dict)
        self.violations = []

    def violated(self, job, what):
        self.violations.append(f"{job}: {what}")

    def take(self, r):
        handler = getattr(self, "on_" + r["op"], None)
        if handler:
            handler(r)

    # -- one record at a time ----------------------------------------------------------------------

    def on_call(self, r):
        key = (r["tenant"], r["job"])
        if r["kind"] == "probe":  # of somebody else's job
            self.calls[r["call"]], self.of_call[r["call"]] = Call(r), None
            return
        job = self.jobs.get(key)
        if job is None:
            job = self.jobs[key] = Job(r)
            self.sessions[(job.tenant, job.session)][job.turn] = job
        self.calls[r["call"]], self.of_call[r["call"]] = Call(r), job

    def on_cancel(self, r):
        job = self.jobs.get((r["tenant"], r["job"]))
        if job:
            job.cancelled = True

    def shown(self, r):
        """(call, job) that a record belongs to; judges what holds of every record."""
        call, job = self.calls[r["call"]], self.of_call[r["call"]]
        if job is None:
            if r["op"] != "refused":
                self.violations.append(f"call {r['call']}: another tenant's job was shown: {r['op']}")
        elif call.over:
            self.violated(job, f"{r['op']} after its end")
        return call, job

    def on_accepted(self, r):
        call, job = self.shown(r)
        if job is None:
            return
        if r["created"]:
            job.created += 1
            if job.created > 1:
                self.violated(job, "created twice")
            if call.kind == "attach":
                self.violated(job, "created by an attach")
        if job.acknowledged is None:
            job.acknowledged = r["t"]
        if r["state"] not in OVER:
            self.must_run_still(call, job, f"is {r['state']}")

    def must_run_still(self, call, job, what):
        """Real time: what a call that began after the end shows is the end."""
        if job.ended is not None and call.begun > job.ended:
            self.violated(job, f"{what}, though a call that was over before saw it {job.outcome}")
        for turn, later in self.sessions[(job.tenant, job.session)].items():
            if turn > job.turn and later.first_token is not None and call.begun > later.first_token:
                self.violated(job, f"{what}, though turn {turn} of its session had a token before")

    def on_started(self, r):
        call, job = self.shown(r)
        if job is None:
            return
        attempt = r["attempt"]
        if attempt < call.attempt or (attempt < job.attempt and call.begun > job.attempt_seen):
            self.violated(job, f"attempt {attempt} started after attempt {job.attempt}")
        if attempt > job.attempt:
            if job.ended is not None and call.begun > job.ended:
                self.violated(job, f"attempt {attempt} started after its end")
            job.attempt, job.attempt_seen = attempt, r["t"]
        call.attempt = max(call.attempt, attempt)

    def on_tokens(self, r):
        call, job = self.shown(r)
        if job is None:
            return
        if r["first"] != call.next:
            self.violated(job, f"token {call.next} expected, {r['first']} shown")
        for i, token in enumerate(r["ids"], r["first"]):
            while len(job.tokens) <= i:
                job.tokens.append(None)
            if job.tokens[i] is None:
                job.tokens[i] = token
            elif job.tokens[i] != token:
                self.violated(job, f"token {i} is {token} after it was {job.tokens[i]}")
        call.next = max(call.next, r["first"] + len(r["ids"]))
        call.text += r["text"]
        if job.first_token is None and r["ids"]:
            job.first_token = r["t"]
        if job.outcome_count is not None and call.next > job.outcome_count:
            self.violated(job, f"{call.next} tokens of the {job.outcome_count} that its end told")

    def end(self, r, outcome, count):
        call, job = self.shown(r)
        call.over = True
        if job is None:
            return
        if job.outcome is not None and job.outcome != outcome:
            self.violated(job, f"{outcome} after it was {job.outcome}")
        if job.ended is None:
            job.outcome, job.ended, job.outcome_count = outcome, r["t"], count
        if count is not None:
            if count != job.outcome_count:
                self.violated(job, f"ends with {count} tokens after it was {job.outcome_count}")
            if call.next != count and call.first <= count:
                self.violated(job, f"ends at {call.next} tokens of {count}")
            if any(t is None for t in job.tokens[call.first:count]) or len(job.tokens) > count:
                self.violated(job, f"ends with {count} tokens, {len(job.tokens)} were shown")
        if call.first == 0:
            if job.text is not None and job.text != call.text:
                self.violated(job, "another text than before")
            job.text = call.text

    def on_finished(self, r):
        self.end(r, "finished " + r["reason"], r["output_tokens"])

    def on_failed(self, r):
        self.end(r, "failed " + r["code"], None)

    def on_refused(self, r):
        call, job = self.shown(r)
        call.over = True
        if job is None:
            if r["code"] != "not_found":
                self.violations.append(f"call {r['call']}: another tenant's job is {r['code']}, not not_found")
            return
        if r["code"] == "not_found" and job.acknowledged is not None and call.begun > job.acknowledged:
            self.violated(job, "acknowledged, and not found later")
        elif r["code"] in ("invalid", "conflict", "forbidden", "too_long", "too_large", "version"):
            self.violated(job, f"refused as {r['code']}: {r.get('message', '')}")

    def on_lost(self, r):
        call, job = self.shown(r)
        call.over = True
        if r["contradiction"]:
            self.violated(job, "the client library saw a contradiction: " + r["message"])

    # -- at the end --------------------------------------------------------------------------------

    def finish(self):
        for job in self.jobs.values():
            if job.outcome is None:
                self.violated(job, "acknowledged and never answered" if job.acknowledged is not None
                              else "asked for and never answered")
            else:
                self.judge_reply(job)
        for turns in self.sessions.values():
            self.judge_order([turns[t] for t in sorted(turns)])
        return self.violations

    def judge_reply(self, job):
        expected = self.reference[(job.plan, job.turn)]
        kind = self.turn_kind(job.plan, job.turn)
        ids = [t for t in job.tokens if t is not None]
        stopped = job.outcome in ("finished cancelled", "finished expired")
        if kind == "resident" and job.outcome == "failed not_resident":
            return
        if stopped and (kind == "deadline" or job.cancelled):
            if ids != expected["ids"][:len(ids)]:
                self.violated(job, "what it had before it was stopped is not what the reference begins with")
            return
        if job.outcome != "finished " + expected["reason"]:
            self.violated(job, f"{job.outcome}, the reference finished {expected['reason']}")
        elif ids != expected["ids"]:
            at = next((i for i, (a, b) in enumerate(zip(ids, expected["ids"])) if a != b),
                      min(len(ids), len(expected["ids"])))
            self.violated(job, f"differs from the reference at token {at}")
        elif job.text is not None and job.text != expected["text"]:
            self.violated(job, "the reference's tokens, another text")

    def judge_order(self, turns):
        """The order of turns agrees with real time: none was over before an earlier one was asked."""
        for i, earlier in enumerate(turns):
            for later in turns[i + 1:]:
                if later.ended is not None and later.ended < earlier.asked:
                    self.violated(later, f"over before turn {earlier.turn} was asked for")
        numbers = [job.turn for job in turns]
        if numbers != list(range(len(numbers))):
            self.violations.append(f"session {turns[0].session}: turns {numbers}")


def check(records, reference, turn_kind):
    """All violations, as lines; none: the history is valid."""
    checker = Checker(reference, turn_kind)
    for record in records:
        checker.take(record)
    return checker.finish()


def main():
    """Judges a campaign's folder again: `python3 history.py DIR`."""
    import plans
    folder = pathlib.Path(sys.argv[1])
    reference = {(plan, turn): reply for plan, turn, reply in json.loads((folder / "reference.json").read_text())}
    with open(folder / "history.jsonl", encoding="utf-8") as f:
        violations = check((json.loads(line) for line in f), reference, plans.kind)
    print("\n".join(violations) or "all histories are valid")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
