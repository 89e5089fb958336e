#include "tests/sim/describe.h"

namespace limpet::sim {
namespace {

std::string n(int64_t x) { return std::to_string(x); }
template <typename E>
std::string id(E e) {
  return std::to_string(raw(e));
}
std::string at(JobNumber job, Attempt attempt) { return " job " + id(job) + "/" + id(attempt); }

std::string say(const Submit& m) { return "Submit " + m.spec->job_id + " from " + n(m.from_index); }
std::string say(const Attach& m) { return "Attach " + m.job_id + " from " + n(m.from_index); }
std::string say(const Detach& m) { return "Detach " + m.job_id; }
std::string say(const Cancel& m) { return "Cancel " + m.job_id; }
std::string say(const List&) { return "List"; }
std::string say(const Drain& m) { return "Drain " + m.worker; }
std::string say(const Release& m) { return "Release " + m.session; }
std::string say(const Retry& m) { return "Retry " + m.job_id; }

std::string say(const Accepted& m) { return "Accepted " + m.job_id; }
std::string say(const Refused& m) { return "Refused " + m.job_id + " " + m.message; }
std::string say(const Started& m) { return "Started " + m.job_id; }
std::string say(const Tokens& m) {
  return "Tokens " + m.job_id + " [" + n(m.first_index) + ", +" + n(std::ssize(m.ids)) + ")";
}
std::string say(const Finished& m) { return "Finished " + m.job_id; }
std::string say(const Failed& m) { return "Failed " + m.job_id + " " + m.message; }
std::string say(const Listed&) { return "Listed"; }
std::string say(const DrainStatus& m) { return "DrainStatus of " + m.worker; }
std::string say(const Released& m) { return "Released " + m.session; }
std::string say(const Retried& m) { return "Retried " + m.job_id + (m.again ? " again" : ""); }

std::string say(const Register& m) {
  std::string s = "Register slots " + n(m.room.slots);
  for (const HeldSession& h : m.sessions) s += " s" + id(h.session) + "@" + id(h.epoch);
  for (const HeldJob& h : m.jobs) s += at(h.job, h.attempt) + ":" + n(h.next_index);
  return s;
}
std::string say(const Heartbeat& m) {
  std::string s = "Heartbeat " + n(static_cast<int64_t>(m.sequence)) + " slots " + n(m.room.slots);
  for (const HeldJob& h : m.jobs) {
    s += at(h.job, h.attempt) + ":" + n(h.next_index) + (h.ended ? "!" : "");
  }
  return s;
}
std::string say(const NeedTranscript& m) { return "NeedTranscript" + at(m.job, m.attempt); }
std::string say(const JobStarted& m) {
  return "JobStarted" + at(m.job, m.attempt) + " " + std::string(name(m.residency)) + " " +
         std::string(name(m.reason)) + " cached " + n(m.cached_tokens);
}
std::string say(const StepTokens& m) {
  std::string s = "StepTokens";
  for (const StepRow& r : m.rows) {
    s += at(r.job, r.attempt) + " [" + n(r.first_index) + ":";
    for (const Token t : r.ids) s += " " + n(t);
    s += "]";
  }
  return s;
}
std::string say(const JobEnded& m) {
  return "JobEnded" + at(m.job, m.attempt) + (m.ok ? " ok " : " failed ") + n(m.output_tokens) +
         " " + m.message;
}
std::string say(const SessionDropped& m) {
  return "SessionDropped s" + id(m.session) + "@" + id(m.epoch);
}
std::string say(const Leaving&) { return "Leaving"; }
std::string say(const SessionReceived& m) {
  return "SessionReceived s" + id(m.session) + "@" + id(m.epoch) + " of " + n(m.tokens);
}
std::string say(const HandOverFailed& m) {
  return "HandOverFailed s" + id(m.session) + "@" + id(m.epoch) + " " + m.why;
}
std::string say(const Leave&) { return "Leave"; }
std::string say(const MayLeave&) { return "MayLeave"; }
std::string say(const HandOver& m) {
  return "HandOver s" + id(m.session) + "@" + id(m.epoch) + " to " + m.endpoint;
}
std::string say(const StopHandOver& m) {
  return "StopHandOver s" + id(m.session) + "@" + id(m.epoch);
}
std::string say(const ExpectSession& m) {
  return "ExpectSession s" + id(m.session) + "@" + id(m.epoch);
}
std::string say(const KeepSession& m) {
  return "KeepSession s" + id(m.session) + "@" + id(m.epoch);
}
std::string say(const TransferOpen& m) {
  return "TransferOpen s" + id(m.session) + "@" + id(m.epoch);
}
std::string say(const TransferPage& m) {
  return "TransferPage s" + id(m.session) + "@" + id(m.epoch) + " " + n(m.index) + " of " +
         n(std::ssize(m.tokens)) + (m.damaged ? " damaged" : "");
}
std::string say(const TransferEnd& m) {
  return "TransferEnd s" + id(m.session) + "@" + id(m.epoch) + " of " + n(m.tokens);
}
std::string say(const TransferCredit& m) {
  return "TransferCredit s" + id(m.session) + "@" + id(m.epoch) + " next " + n(m.next_page) +
         " below " + n(m.credit) + (m.again ? " again" : "");
}
std::string say(const TransferDone& m) {
  return "TransferDone s" + id(m.session) + "@" + id(m.epoch) + " of " + n(m.tokens);
}
std::string say(const TransferRefused& m) {
  return "TransferRefused s" + id(m.session) + "@" + id(m.epoch) + " " + m.why;
}

std::string say(const Registered& m) {
  std::string s = "Registered";
  for (const HeldSession& h : m.release) s += " release s" + id(h.session) + "@" + id(h.epoch);
  for (const auto& r : m.resume) s += " resume" + at(r.job, r.attempt) + ":" + n(r.from_index);
  for (const auto& r : m.drop) s += " drop" + at(r.job, r.attempt);
  return s;
}
std::string say(const RegisterRefused& m) { return "RegisterRefused " + m.message; }
std::string say(const WhoAreYou&) { return "WhoAreYou"; }
std::string say(const Dispatch& m) {
  return "Dispatch" + at(m.job, m.attempt) + " s" + id(m.session) + "@" + id(m.epoch) + " base " +
         n(m.base_tokens) + " prompt " + n(m.prompt_tokens) + " output " + n(m.output_tokens) +
         " " + std::string(name(m.home_reason)) +
         (m.has_transcript ? " with " + n(std::ssize(m.transcript)) : " without transcript");
}
std::string say(const TranscriptReply& m) {
  return "TranscriptReply" + at(m.job, m.attempt) + " of " + n(std::ssize(m.transcript));
}
std::string say(const CancelJob& m) { return "CancelJob" + at(m.job, m.attempt); }
std::string say(const ResumeJob& m) {
  return "ResumeJob" + at(m.job, m.attempt) + " from " + n(m.from_index);
}
std::string say(const EndAck& m) { return "EndAck" + at(m.job, m.attempt); }
std::string say(const ReleaseSession& m) {
  return "ReleaseSession s" + id(m.session) + "@" + id(m.epoch);
}

std::string say(const broker::SessionOpened& e) { return "s" + id(e.session) + " " + e.name; }
std::string say(const broker::SessionTerms& e) {
  return "s" + id(e.session) + " keeps for " + n(e.keep_alive_ms) + " ms at most " +
         n(e.max_tokens);
}
std::string say(const broker::JobAccepted& e) {
  return "accepted job " + id(e.job) + " = " + e.spec->job_id + " in s" + id(e.session);
}
std::string say(const broker::HomeSet& e) {
  return "home of s" + id(e.session) + "@" + id(e.epoch) + " is " + e.worker + ", " +
         std::string(name(e.reason));
}
std::string say(const broker::JobDispatched& e) { return "dispatched" + at(e.job, e.attempt); }
std::string say(const broker::JobRequeued& e) { return "requeued job " + id(e.job) + ", " + e.why; }
std::string say(const broker::StartedEntry& e) {
  return "started" + at(e.job, e.attempt) + " base " + n(e.base_tokens) +
         (e.has_prompt ? " prompt " + n(std::ssize(e.prompt)) : "");
}
std::string say(const broker::TokensAppended& e) {
  std::string s = "tokens";
  for (const broker::OutputRow& r : e.rows) {
    s += " job " + id(r.job) + " [" + n(r.first_index) + ":";
    for (const Token t : r.ids) s += " " + n(t);
    s += "]";
  }
  return s;
}
std::string say(const broker::JobEndedEntry& e) {
  return "ended job " + id(e.job) + " " + std::string(name(e.state)) + " " + e.message;
}
std::string say(const broker::SessionClosed& e) { return "closed s" + id(e.session); }
std::string say(const broker::SessionSnapshot& e) { return "snapshot of s" + id(e.session); }
std::string say(const broker::JobSnapshot& e) { return "snapshot of job " + id(e.accepted.job); }
std::string say(const broker::NumbersReserved&) { return "numbers reserved"; }

}  // namespace

std::string describe(const ClientMessage& v) {
  return std::visit([](const auto& m) { return say(m); }, v);
}
std::string describe(const BrokerToClient& v) {
  return std::visit([](const auto& m) { return say(m); }, v);
}
std::string describe(const WorkerMessage& v) {
  return std::visit([](const auto& m) { return say(m); }, v);
}
std::string describe(const BrokerToWorker& v) {
  return std::visit([](const auto& m) { return say(m); }, v);
}
std::string describe(const GiverMessage& v) {
  return std::visit([](const auto& m) { return say(m); }, v);
}
std::string describe(const ReceiverMessage& v) {
  return std::visit([](const auto& m) { return say(m); }, v);
}
std::string describe(const broker::JournalEntry& v) {
  return std::visit([](const auto& e) { return say(e); }, v);
}

}  // namespace limpet::sim
