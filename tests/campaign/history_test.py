"""The checker sees: a history that is right passes, and each way to break a promise is found."""
import copy
import unittest

import history

REFERENCE = {("p", 0): {"ids": [1, 2, 3, 4], "text": "abcd", "reason": "length"},
             ("p", 1): {"ids": [5, 6], "text": "ef", "reason": "stop"},
             ("c", 0): {"ids": [1, 2, 3, 4], "text": "abcd", "reason": "length"},
             ("r", 0): {"ids": [7], "text": "g", "reason": "stop"}}
KINDS = {("c", 0): "cancel", ("r", 0): "resident"}


def call(t, number, job="j0", turn=0, kind="submit", first=0, plan="p", tenant="acme"):
    return {"op": "call", "t": t, "call": number, "kind": kind, "tenant": tenant, "session": "s",
            "turn": turn, "job": job, "plan": plan, "from": first}


def accepted(t, number, created=True, state="queued"):
    return {"op": "accepted", "t": t, "call": number, "created": created, "state": state}


def started(t, number, attempt=1):
    return {"op": "started", "t": t, "call": number, "attempt": attempt, "worker": "one",
            "residency": "resident", "reason": "none"}


def tokens(t, number, first, ids, text=""):
    return {"op": "tokens", "t": t, "call": number, "first": first, "ids": ids, "text": text}


def finished(t, number, count, reason="length"):
    return {"op": "finished", "t": t, "call": number, "reason": reason, "output_tokens": count}


def refused(t, number, code):
    return {"op": "refused", "t": t, "call": number, "code": code, "message": ""}


def good():
    """Two turns; the first client dies in mid-stream, and another one goes on from its index."""
    return [call(0, 1), accepted(1, 1), started(2, 1), tokens(3, 1, 0, [1, 2], "ab"),
            {"op": "return", "t": 4, "call": 1, "by": "killed"},
            call(5, 2, kind="attach", first=2), accepted(6, 2, False, "running"), started(7, 2, 2),
            tokens(8, 2, 2, [3, 4], "cd"), finished(9, 2, 4),
            call(10, 3, "j1", 1), accepted(11, 3), started(12, 3), tokens(13, 3, 0, [5, 6], "ef"),
            finished(14, 3, 2, "stop"),
            call(20, 4, kind="attach"), accepted(21, 4, False, "finished"), started(22, 4, 2),
            tokens(23, 4, 0, [1, 2, 3, 4], "abcd"), finished(24, 4, 4)]


class Checks(unittest.TestCase):
    def judge(self, records):
        return history.check(records, REFERENCE, lambda plan, turn: KINDS.get((plan, turn), "plain"))

    def found(self, records, *words):
        violations = self.judge(records)
        self.assertTrue(violations, "nothing was found")
        self.assertTrue(any(all(w in v for w in words) for v in violations), violations)

    def changed(self, index, **fields):
        records = copy.deepcopy(good())
        records[index].update(fields)
        return records

    def test_a_history_that_is_right(self):
        self.assertEqual(self.judge(good()), [])

    def test_a_token_that_is_contradicted(self):
        self.found(self.changed(18, ids=[1, 2, 9, 4]), "token 2 is 9 after it was 3")

    def test_a_token_that_the_reference_does_not_have(self):
        records = good()
        records[8]["ids"] = records[18]["ids"][2:] = [3, 9]
        self.found(records, "differs from the reference at token 3")

    def test_a_text_that_the_reference_does_not_have(self):
        self.found(self.changed(13, text="eF"), "another text")

    def test_a_text_that_is_another_later(self):
        records = good() + [call(30, 5, kind="attach"), accepted(31, 5, False, "finished"),
                            tokens(32, 5, 0, [1, 2, 3, 4], "abce"), finished(33, 5, 4)]
        self.found(records, "another text than before")

    def test_a_gap_and_a_repetition_in_a_stream(self):
        self.found(self.changed(8, first=3), "token 2 expected, 3 shown")
        self.found(self.changed(8, first=1), "token 2 expected, 1 shown")

    def test_a_stream_that_ends_too_soon(self):
        self.found(self.changed(8, ids=[3]), "ends at 3 tokens of 4")

    def test_an_acknowledged_job_that_is_never_answered(self):
        self.found(good()[:9], "acknowledged and never answered")
        self.found(good()[:1], "asked for and never answered")

    def test_two_outcomes(self):
        self.found(self.changed(19, reason="stop"), "finished stop after it was finished length")
        self.found(good() + [call(30, 5, kind="attach"),
                             {"op": "failed", "t": 31, "call": 5, "code": "internal", "message": ""}],
                   "failed internal after it was finished length")

    def test_another_number_of_tokens_at_the_end(self):
        self.found(self.changed(19, output_tokens=5), "ends with 5 tokens after it was 4")

    def test_something_after_the_end(self):
        records = good()
        records.insert(10, tokens(9.5, 2, 4, [5]))
        self.found(records, "tokens after its end")

    def test_a_job_that_is_created_twice(self):
        records = good()
        records[16] = accepted(21, 4, True, "finished")
        records[15]["kind"] = "submit"
        self.found(records, "created twice")

    def test_an_acknowledged_job_that_is_forgotten(self):
        self.found(good() + [call(30, 5, kind="attach"), refused(31, 5, "not_found")],
                   "acknowledged, and not found later")

    def test_a_job_that_is_refused_for_no_reason(self):
        self.found(good() + [call(30, 5), refused(31, 5, "conflict")], "refused as conflict")

    def test_busy_and_a_full_disk_are_no_violation(self):
        self.assertEqual(self.judge([call(0, 0), refused(0.5, 0, "storage")] + good()), [])

    def test_a_job_that_runs_again_after_its_end(self):
        self.found(self.changed(16, state="running"), "is running, though a call that was over before")
        self.found(self.changed(17, attempt=3), "attempt 3 started after its end")

    def test_attempts_that_go_back(self):
        self.found(self.changed(17, attempt=1), "attempt 1 started after attempt 2")

    def test_a_turn_that_overtakes(self):
        # Turn 1 has a token; later turn 0 is asked about, and still runs.
        records = [call(0, 1), accepted(1, 1), call(2, 2, "j1", 1), accepted(3, 2), tokens(4, 2, 0, [5, 6], "ef"),
                   finished(5, 2, 2, "stop"), call(6, 3, kind="attach"), accepted(7, 3, False, "running"),
                   tokens(8, 3, 0, [1, 2, 3, 4], "abcd"), finished(9, 3, 4)]
        self.found(records, "is running, though turn 1 of its session had a token before")

    def test_a_turn_that_was_over_before_the_one_before_it(self):
        records = [call(2, 2, "j1", 1), accepted(3, 2), tokens(4, 2, 0, [5, 6], "ef"), finished(5, 2, 2, "stop"),
                   call(6, 3), accepted(7, 3), tokens(8, 3, 0, [1, 2, 3, 4], "abcd"), finished(9, 3, 4)]
        self.found(records, "over before turn 0 was asked for")

    def test_what_is_cancelled_is_a_beginning_of_the_reference(self):
        def cancelled(ids):
            return [call(0, 1, plan="c"), accepted(1, 1), tokens(2, 1, 0, ids, "x"),
                    {"op": "cancel", "t": 3, "tenant": "acme", "job": "j0"}, finished(4, 1, len(ids), "cancelled")]
        self.assertEqual(self.judge(cancelled([1, 2])), [])
        self.found(cancelled([1, 9]), "before it was stopped")
        nobody_asked = [r for r in cancelled([1, 2]) if r["op"] != "cancel"]
        self.found(nobody_asked, "finished cancelled, the reference finished length")

    def test_not_resident_is_for_who_asked_for_it(self):
        def failed(plan):
            return [call(0, 1, plan=plan), accepted(1, 1),
                    {"op": "failed", "t": 2, "call": 1, "code": "not_resident", "message": ""}]
        self.assertEqual(self.judge(failed("r")), [])
        self.found(failed("p"), "failed not_resident, the reference finished length")

    def test_another_tenants_job(self):
        probe = call(30, 5, kind="probe", tenant="zeta")
        self.assertEqual(self.judge(good() + [probe, refused(31, 5, "not_found")]), [])
        self.found(good() + [probe, accepted(31, 5, False, "finished")], "another tenant's job was shown")
        self.found(good() + [probe, refused(31, 5, "busy")], "is busy, not not_found")

    def test_a_contradiction_that_the_client_library_saw(self):
        lost = {"op": "lost", "t": 31, "call": 5, "contradiction": True, "message": "token 3"}
        self.found(good() + [call(30, 5, kind="attach"), lost], "saw a contradiction: token 3")


if __name__ == "__main__":
    unittest.main()
