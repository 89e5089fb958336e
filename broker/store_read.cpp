// Reading the store: what is in the tables, then what is only in the log (kept in memory).
#include <algorithm>

#include "broker/store_impl.h"
#include "schema/wire.h"

namespace limpet::broker {
namespace {

// Columns of `SELECT * FROM job`; the order of the table in store_recover.cpp.
enum Column {
  kNumber, kId, kSequence, kSession, kBodyHash, kSeed, kAcceptedAt, kDeadlineAt, kState, kAttempt,
  kWhy, kPrevious, kBase, kPrompt, kOutput, kStarted, kStartedAttempt, kWorker, kResidency,
  kReason, kCached, kPrefilled, kFinishReason, kTailText, kErrorCode, kErrorMessage, kUsagePrompt,
  kUsageCached, kUsageOutput, kQueueSeconds, kFirstTokenSeconds, kTotalSeconds, kEndedAt,
  kSessionTokens, kFailures, kTenant
};

StoredProgress progress_row(const Statement& row) {
  StoredProgress p;
  p.job = JobNumber(row.integer(kNumber));
  p.session = SessionNumber(row.integer(kSession));
  p.job_id = row.text(kId);
  p.state = JobState(row.integer(kState));
  p.attempt = Attempt(row.integer(kAttempt));
  p.output_tokens = row.integer(kOutput);
  if (row.integer(kStarted) != 0) {
    p.started = StartedEntry{p.job, Attempt(row.integer(kStartedAttempt)),
                             std::string(row.text(kWorker)), Residency(row.integer(kResidency)),
                             Reason(row.integer(kReason)), row.integer(kCached),
                             row.integer(kPrefilled), row.integer(kBase), false, {}};
  }
  p.ended = JobEndedEntry{p.job,
                          p.state,
                          FinishReason(row.integer(kFinishReason)),
                          std::string(row.text(kTailText)),
                          ErrorCode(row.integer(kErrorCode)),
                          std::string(row.text(kErrorMessage)),
                          {row.integer(kUsagePrompt), row.integer(kUsageCached),
                           row.integer(kUsageOutput)},
                          {row.real(kQueueSeconds), row.real(kFirstTokenSeconds),
                           row.real(kTotalSeconds)},
                          row.integer(kEndedAt),
                          row.integer(kSessionTokens)};
  return p;
}

// Resets the statement however the reading ends.
class Reading {
 public:
  explicit Reading(Statement& s) : s_(s) {}
  ~Reading() { s_.reset(); }

 private:
  Statement& s_;
};

}  // namespace

void Store::Impl::damaged(const std::string& what) const {
  throw_damaged(db_.path(), what);
}

std::optional<StoredJob> Store::Impl::find_job(std::string_view tenant,
                                               std::string_view job_id) {
  const JournalState::OwnedIdView owned{tenant, job_id};
  if (auto it = state.by_id.find(owned); it != state.by_id.end()) {
    const JobHead& head = state.job(it->second);
    return StoredJob{head.job, head.body_hash, head.state};
  }
  const Reading reading(sql_.find_id);
  if (!sql_.find_id.bind(tenant).bind(job_id).step()) return std::nullopt;
  return StoredJob{JobNumber(sql_.find_id.integer(0)),
                   static_cast<uint64_t>(sql_.find_id.integer(1)),
                   JobState(sql_.find_id.integer(2))};
}

std::optional<StoredProgress> Store::Impl::progress(JobNumber job) {
  if (const JobHead* head = state.find(job)) {
    StoredProgress p{job, head->session, head->id, head->state, head->attempt, head->span.output,
                     std::nullopt, std::nullopt};
    if (head->has_started) p.started = head->started;
    return p;
  }
  const Reading reading(sql_.get_job);
  if (!sql_.get_job.bind(static_cast<int64_t>(raw(job))).step()) return std::nullopt;
  return progress_row(sql_.get_job);
}

JobSpan Store::Impl::span_of(JobNumber job) {
  if (const JobHead* head = state.find(job)) return head->span;
  const Reading reading(sql_.get_job);
  if (!sql_.get_job.bind(static_cast<int64_t>(raw(job))).step()) {
    damaged("job " + std::to_string(raw(job)) + " is missing");
  }
  const Statement& row = sql_.get_job;
  return {JobNumber(row.integer(kPrevious)), row.integer(kBase), row.integer(kPrompt),
          row.integer(kOutput)};
}

// The first `count` of the job's prompt and output tokens.
void Store::Impl::append_tokens(JobNumber job, int64_t count, std::vector<Token>& out) {
  const auto end = out.size() + static_cast<size_t>(count);
  const JobHead* head = state.find(job);
  if (head != nullptr && !head->prompt.empty()) {
    out.insert(out.end(), head->prompt.begin(), head->prompt.end());
  } else {
    const Reading reading(sql_.get_chunk);
    if (sql_.get_chunk.bind(chunk_key(job, Slot::prompt)).step()) {
      const std::string_view bytes = sql_.get_chunk.blob(0);
      const size_t at = out.size();
      out.resize(at + bytes.size() / sizeof(Token));
      std::memcpy(out.data() + at, bytes.data(), (out.size() - at) * sizeof(Token));
    }
  }
  if (out.size() < end) {
    read_output(job, 0, [&](OutputRow&& row) {
      out.insert(out.end(), row.ids.begin(), row.ids.end());
      return out.size() < end;
    });
  }
  if (out.size() < end) damaged("tokens of job " + std::to_string(raw(job)) + " are missing");
  out.resize(end);
}

std::vector<Token> Store::Impl::transcript(SessionNumber session, int64_t n) {
  struct Part {
    JobNumber job{};
    int64_t count = 0;
  };
  std::vector<Part> parts;  // newest first
  JobNumber job = state.session(session).last_job;
  int64_t end = n;
  while (end > 0) {
    if (job == JobNumber{}) damaged("session " + std::to_string(raw(session)) + " is too short");
    const JobSpan span = span_of(job);
    if (span.base < end) {
      if (span.base + span.prompt + span.output < end) {
        damaged("session " + std::to_string(raw(session)) + " has a gap");
      }
      parts.push_back({job, end - span.base});
      end = span.base;
    }
    if (span.previous >= job) damaged("session " + std::to_string(raw(session)) + " turns back");
    job = span.previous;
  }
  std::vector<Token> out;
  out.reserve(static_cast<size_t>(n));
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    append_tokens(part->job, part->count, out);
  }
  return out;
}

std::optional<std::vector<Token>> Store::Impl::transcript_of(JobNumber job) {
  const JobHead* head = state.find(job);
  if (head == nullptr) return std::nullopt;
  const JobSpan& span = head->span;
  return transcript(head->session, span.prompt < 0 ? state.session(head->session).tokens
                                                   : span.base + span.prompt + span.output);
}

void Store::Impl::read_output(JobNumber job, int64_t from,
                              const std::function<bool(OutputRow&&)>& sink) {
  const JobHead* head = state.find(job);
  if (head == nullptr || (head->in_table && from < head->tail.first)) {
    const Reading reading(sql_.output_from);
    const int64_t zero = chunk_key(job, Slot::output);
    int64_t first = zero;  // the chunk that `from` lies in may begin before it
    {
      const Reading looking(sql_.chunk_of);
      if (sql_.chunk_of.bind(zero).bind(chunk_key(job, Slot::output, from)).step()) {
        first = std::max(first, sql_.chunk_of.integer(0));
      }
    }
    sql_.output_from.bind(first).bind(chunk_key(JobNumber(raw(job) + 1), Slot::spec) - 1);
    while (sql_.output_from.step()) {
      ByteReader in(sql_.output_from.blob(1));
      OutputChunk chunk;
      if (!get_chunk(in, chunk)) damaged("output of job " + std::to_string(raw(job)));
      if (chunk.end() > from && !sink(chunk.from(job, from))) return;
    }
  }
  if (head != nullptr && head->tail.end() > from) sink(head->tail.from(job, from));
}

namespace {

JobInfo info_of(const Statement& row, const std::string& session) {
  const StoredProgress p = progress_row(row);
  JobInfo info;
  info.job_id = p.job_id;
  info.session = session;
  info.state = p.state;
  info.attempt = static_cast<int32_t>(raw(p.attempt));
  info.output_tokens = p.output_tokens;
  info.tenant = row.text(kTenant);
  info.accepted_at = row.integer(kAcceptedAt);
  info.ended_at = p.ended->ended_at;
  info.code = p.ended->code;
  info.worker = row.text(kWorker);
  info.detail = p.state == JobState::failed
                    ? std::string(name(p.ended->code)) + ": " + p.ended->message
                    : std::string(name(p.ended->reason));
  return info;
}

bool asked_for(const List& list, const JobInfo& job) {
  return job.ended_at >= list.since && (list.tenant.empty() || list.tenant == job.tenant) &&
         (list.worker.empty() || list.worker == job.worker) &&
         (list.session.empty() || list.session == job.session) &&
         (list.states == 0 || (list.states >> raw(job.state) & 1) != 0);
}

}  // namespace

Store::Ended Store::Impl::ended_jobs(const List& list, size_t limit, const std::string* tenant) {
  constexpr int64_t kLookedAt = 10000;  // jobs, by one listing
  Ended out;
  const bool failed = list.states == 1u << raw(JobState::failed);
  Statement& rows = failed            ? sql_.failed
                    : !tenant         ? sql_.ended
                    : tenant->empty() ? sql_.ended_of_none
                                      : sql_.ended_of;
  const Reading reading(rows);
  rows.bind(kLookedAt);
  if (tenant && !tenant->empty() && !failed) rows.bind(std::string_view(*tenant));
  int64_t looked_at = 0;
  while (rows.step()) {
    out.more = ++looked_at == kLookedAt;
    const auto s = state.sessions.find(SessionNumber(rows.integer(kSession)));
    JobInfo info = info_of(rows, s == state.sessions.end() ? std::string() : s->second.name);
    if ((tenant && info.tenant != *tenant) || !asked_for(list, info)) continue;
    if (out.jobs.size() == limit) {
      out.more = true;
      break;
    }
    out.jobs.push_back(std::move(info));
  }
  return out;
}

std::shared_ptr<const JobSpec> Store::Impl::body(JobNumber job) {
  const Reading reading(sql_.get_chunk);
  if (!sql_.get_chunk.bind(chunk_key(job, Slot::spec)).step()) return nullptr;
  auto spec = std::make_shared<JobSpec>();
  const auto error = wire::decode_spec(std::as_bytes(std::span(sql_.get_chunk.blob(0))), *spec);
  if (error.code != ErrorCode::none) {
    damaged("the body of job " + std::to_string(raw(job)) + ": " + error.message);
  }
  return spec;
}

}  // namespace limpet::broker
