// The link from workers to the broker.
#include "schema/wire_envelope.h"
#include "schema/wire_worker_parts.h"

namespace limpet::wire {
namespace {

fbs::Room room(const Room& m) { return {m.slots, m.free_kv_tokens, m.total_kv_tokens}; }

auto put(Builder& fbb, const std::vector<HeldJob>& jobs) {
  fbs::HeldJob* to = nullptr;
  auto offset = fbb.CreateUninitializedVectorOfStructs(jobs.size(), &to);
  for (const HeldJob& j : jobs) {
    *to++ = fbs::HeldJob(raw(j.job), j.next_index, raw(j.attempt), j.started, j.ended);
  }
  return offset;
}
auto put(Builder& fbb, const Register& m) {
  auto worker = wire::put(fbb, m.worker);
  auto device = wire::put(fbb, m.device);
  auto model = wire::put(fbb, m.model);
  auto sessions = put_held(fbb, m.sessions);
  auto jobs = put(fbb, m.jobs);
  auto transfer = wire::put(fbb, m.transfer);
  const fbs::Room has = room(m.room);
  return fbs::CreateRegister(fbb, worker, m.incarnation, device, model, m.model_fingerprint,
                             m.max_context, &has, sessions, jobs, m.room.idle_kv_tokens,
                             m.kv_page_tokens, transfer, m.kv_layout, m.room.spill_kv_tokens);
}
auto put(Builder& fbb, const Heartbeat& m) {
  const fbs::Room has = room(m.room);
  return fbs::CreateHeartbeat(fbb, m.incarnation, m.sequence, &has, put(fbb, m.jobs),
                              m.room.idle_kv_tokens, m.resident_kv_tokens,
                              m.room.spill_kv_tokens);
}
auto put(Builder& fbb, const NeedTranscript& m) {
  return fbs::CreateNeedTranscript(fbb, raw(m.job), raw(m.attempt));
}
auto put(Builder& fbb, const JobStarted& m) {
  return fbs::CreateJobStarted(fbb, raw(m.job), raw(m.attempt), raw(m.residency), raw(m.reason),
                               m.cached_tokens, m.prefilled_tokens, wire::put(fbb, m.prompt));
}

// The logprobs of all rows as one list over all ids; empty when no row has any.
flatbuffers::Offset<fbs::Logprobs> put_step_logprobs(Builder& fbb,
                                                     const std::vector<StepRow>& rows) {
  const auto has = [](const StepRow& row) { return !row.logprobs.empty(); };
  if (std::none_of(rows.begin(), rows.end(), has)) return 0;
  std::vector<std::vector<TokenLogprob>> all;
  for (const StepRow& row : rows) {
    if (has(row) && row.logprobs.size() != row.ids.size()) {
      throw std::logic_error("a step row with logprobs for some of its tokens");
    }
    all.insert(all.end(), row.logprobs.begin(), row.logprobs.end());
    if (!has(row)) all.resize(all.size() + row.ids.size());
  }
  return wire::put(fbb, all);
}
auto put(Builder& fbb, const StepTokens& m) {
  thread_local std::string text;
  text.clear();
  size_t id_count = 0;
  for (const StepRow& row : m.rows) {
    id_count += row.ids.size();
    text += row.text;
  }
  fbs::StepRow* to = nullptr;
  auto rows = fbb.CreateUninitializedVectorOfStructs(m.rows.size(), &to);
  for (const StepRow& row : m.rows) {
    *to++ =
        fbs::StepRow(raw(row.job), row.first_index, raw(row.attempt),
                     static_cast<uint32_t>(row.ids.size()), static_cast<uint32_t>(row.text.size()));
  }
  Token* id = nullptr;
  auto ids = fbb.CreateUninitializedVector<Token>(id_count, &id);
  for (const StepRow& row : m.rows) id = std::copy(row.ids.begin(), row.ids.end(), id);
  auto text_offset = wire::put(fbb, text);
  return fbs::CreateStepTokens(fbb, rows, ids, text_offset, put_step_logprobs(fbb, m.rows));
}
auto put(Builder& fbb, const JobEnded& m) {
  auto tail = wire::put(fbb, m.tail_text);
  auto message = wire::put(fbb, m.message);
  return fbs::CreateJobEnded(fbb, raw(m.job), raw(m.attempt), m.ok, raw(m.reason), m.output_tokens,
                             tail, raw(m.code), message, m.retryable);
}
auto put(Builder& fbb, const SessionDropped& m) {
  return fbs::CreateSessionDropped(fbb, raw(m.session), raw(m.epoch), raw(m.reason));
}
auto put(Builder& fbb, const Leaving& m) { return fbs::CreateLeaving(fbb, m.incarnation, m.gone); }
auto put(Builder& fbb, const SessionReceived& m) {
  return fbs::CreateSessionReceived(fbb, raw(m.session), raw(m.epoch), m.tokens);
}
auto put(Builder& fbb, const HandOverFailed& m) {
  return fbs::CreateHandOverFailed(fbb, raw(m.session), raw(m.epoch), wire::put(fbb, m.why));
}

bool get(Reader& r, const fbs::Room* in, Room& out) {
  if (in == nullptr) return r.fail(ErrorCode::invalid, "room is missing");
  int64_t slots = 0;
  const bool fine = r.count(in->slots(), "slots", slots) &&
                    r.count(in->free_kv_tokens(), "free_kv_tokens", out.free_kv_tokens) &&
                    r.count(in->total_kv_tokens(), "total_kv_tokens", out.total_kv_tokens);
  out.slots = static_cast<int32_t>(slots);
  return fine;
}
bool get(Reader& r, const Vec<const fbs::HeldJob*>* in, std::vector<HeldJob>& out) {
  if (in == nullptr) return true;
  if (!r.within(in->size(), Limits::kItems, "jobs")) return false;
  if (!r.spend(in->size() * sizeof(fbs::HeldJob))) return false;
  out.reserve(in->size());
  for (uint32_t i = 0; i < in->size(); ++i) {
    const auto j = element(in, i);
    HeldJob& job = out.emplace_back();
    job = {JobNumber{j.job()}, Attempt{j.attempt()}, 0, j.started(), j.ended()};
    if (!r.count(j.next_index(), "jobs.next_index", job.next_index)) return false;
  }
  return true;
}
bool get(Reader& r, const fbs::Register* in, Register& out) {
  out.incarnation = in->incarnation();
  out.model_fingerprint = in->model_fingerprint();
  out.kv_layout = in->kv_layout();
  return r.name(in->worker(), "worker", out.worker) && r.name(in->device(), "device", out.device) &&
         r.name(in->model(), "model", out.model) &&
         r.count(in->max_context(), "max_context", out.max_context) &&
         get(r, in->room(), out.room) && get_held(r, in->sessions(), "sessions", out.sessions) &&
         get(r, in->jobs(), out.jobs) &&
         r.count(in->idle_kv_tokens(), "idle_kv_tokens", out.room.idle_kv_tokens) &&
         r.count(in->kv_page_tokens(), "kv_page_tokens", out.kv_page_tokens) &&
         r.count(in->spill_kv_tokens(), "spill_kv_tokens", out.room.spill_kv_tokens) &&
         r.name(in->transfer(), "transfer", out.transfer);
}
bool get(Reader& r, const fbs::Heartbeat* in, Heartbeat& out) {
  out.incarnation = in->incarnation();
  out.sequence = in->sequence();
  return get(r, in->room(), out.room) && get(r, in->jobs(), out.jobs) &&
         r.count(in->idle_kv_tokens(), "idle_kv_tokens", out.room.idle_kv_tokens) &&
         r.count(in->spill_kv_tokens(), "spill_kv_tokens", out.room.spill_kv_tokens) &&
         r.count(in->resident_kv_tokens(), "resident_kv_tokens", out.resident_kv_tokens);
}
bool get(Reader&, const fbs::NeedTranscript* in, NeedTranscript& out) {
  out = {JobNumber{in->job()}, Attempt{in->attempt()}};
  return true;
}
bool get(Reader& r, const fbs::JobStarted* in, JobStarted& out) {
  out.job = JobNumber{in->job()};
  out.attempt = Attempt{in->attempt()};
  return r.enumerator(in->residency(), Residency::reprefilled, "residency", out.residency) &&
         r.enumerator(in->reason(), Reason::model_changed, "reason", out.reason) &&
         r.count(in->cached_tokens(), "cached_tokens", out.cached_tokens) &&
         r.count(in->prefilled_tokens(), "prefilled_tokens", out.prefilled_tokens) &&
         r.tokens(in->prompt(), Limits::kTokens, "prompt", out.prompt);
}

// Gives each row its part of the step's logprobs.
bool get_step_logprobs(Reader& r, const fbs::Logprobs* in, size_t ids, StepTokens& out) {
  std::vector<std::vector<TokenLogprob>> all;
  if (!wire::get(r, in, ids, all)) return false;
  if (all.empty()) return true;
  auto next = all.begin();
  for (StepRow& row : out.rows) {
    const auto end = next + static_cast<ptrdiff_t>(row.ids.size());
    if (std::any_of(next, end, [](const auto& list) { return !list.empty(); })) {
      row.logprobs.assign(std::make_move_iterator(next), std::make_move_iterator(end));
    }
    next = end;
  }
  return true;
}
bool get(Reader& r, const fbs::StepTokens* in, StepTokens& out) {
  if (in->rows() == nullptr) return true;
  const uint32_t id_count = in->ids() == nullptr ? 0 : in->ids()->size();
  const uint32_t text_size = in->text() == nullptr ? 0 : in->text()->size();
  if (!r.within(in->rows()->size(), Limits::kItems, "rows") ||
      !r.spend(in->rows()->size() * sizeof(fbs::StepRow) + text_size)) {
    return false;
  }
  out.rows.reserve(in->rows()->size());
  uint32_t id = 0, text = 0;
  for (uint32_t i = 0; i < in->rows()->size(); ++i) {
    const auto row = element(in->rows(), i);
    if (row.ids() > id_count - id || row.text() > text_size - text) {
      return r.fail(ErrorCode::invalid, "the step's ids or text are shorter than its rows");
    }
    StepRow& to = out.rows.emplace_back();
    to.job = JobNumber{row.job()};
    to.attempt = Attempt{row.attempt()};
    if (!r.count(row.first_index(), "rows.first_index", to.first_index)) return false;
    if (row.ids() > 0 && !r.tokens(in->ids()->data() + id, row.ids(), "rows.ids", to.ids)) {
      return false;
    }
    if (row.text() > 0) to.text.assign(in->text()->data() + text, row.text());
    id += row.ids();
    text += row.text();
  }
  if (id != id_count || text != text_size) {
    return r.fail(ErrorCode::invalid, "the step's ids or text are longer than its rows");
  }
  return get_step_logprobs(r, in->logprobs(), id_count, out);
}
bool get(Reader& r, const fbs::JobEnded* in, JobEnded& out) {
  out.job = JobNumber{in->job()};
  out.attempt = Attempt{in->attempt()};
  out.ok = in->ok();
  out.retryable = in->retryable();
  return r.enumerator(in->reason(), FinishReason::expired, "reason", out.reason) &&
         r.count(in->output_tokens(), "output_tokens", out.output_tokens) &&
         r.text(in->tail_text(), Limits::kText, "tail_text", out.tail_text) &&
         r.enumerator(in->code(), ErrorCode::forbidden, "code", out.code) &&
         r.text(in->message(), kErrorText, "message", out.message);
}
bool get(Reader& r, const fbs::SessionDropped* in, SessionDropped& out) {
  out.session = SessionNumber{in->session()};
  out.epoch = Epoch{in->epoch()};
  return r.enumerator(in->reason(), Reason::model_changed, "reason", out.reason);
}
bool get(Reader&, const fbs::Leaving* in, Leaving& out) {
  out = {in->incarnation(), in->gone()};
  return true;
}
bool get(Reader& r, const fbs::SessionReceived* in, SessionReceived& out) {
  out.session = SessionNumber{in->session()};
  out.epoch = Epoch{in->epoch()};
  return r.count(in->tokens(), "tokens", out.tokens);
}
bool get(Reader& r, const fbs::HandOverFailed* in, HandOverFailed& out) {
  out.session = SessionNumber{in->session()};
  out.epoch = Epoch{in->epoch()};
  return r.text(in->why(), kErrorText, "why", out.why);
}

struct WorkerLink {
  using Message = WorkerMessage;
  using Envelope = fbs::WorkerEnvelope;
  using Union = fbs::WorkerMessage;
  static constexpr const char* kIdentifier = "LPWB";
  static constexpr size_t kFrame = Limits::kWorkerFrame;
  static constexpr Union kLast = Union::MAX;
  static_assert(static_cast<size_t>(kLast) == std::variant_size_v<Message>);

  static auto put_message(Builder& fbb, const auto& m) { return put(fbb, m); }
  template <typename T>
  static Union type(flatbuffers::Offset<T>) {
    return fbs::WorkerMessageTraits<T>::enum_value;
  }
  template <typename Out, typename In>
  static bool take(Reader& r, const void* in, std::vector<Message>& out) {
    return get(r, static_cast<const In*>(in), out.emplace_back().template emplace<Out>());
  }
  static bool get_message(Reader& r, Union type, const void* in, std::vector<Message>& out) {
    switch (type) {
      case Union::Register:
        return take<Register, fbs::Register>(r, in, out);
      case Union::Heartbeat:
        return take<Heartbeat, fbs::Heartbeat>(r, in, out);
      case Union::NeedTranscript:
        return take<NeedTranscript, fbs::NeedTranscript>(r, in, out);
      case Union::JobStarted:
        return take<JobStarted, fbs::JobStarted>(r, in, out);
      case Union::StepTokens:
        return take<StepTokens, fbs::StepTokens>(r, in, out);
      case Union::JobEnded:
        return take<JobEnded, fbs::JobEnded>(r, in, out);
      case Union::SessionDropped:
        return take<SessionDropped, fbs::SessionDropped>(r, in, out);
      case Union::Leaving:
        return take<Leaving, fbs::Leaving>(r, in, out);
      case Union::SessionReceived:
        return take<SessionReceived, fbs::SessionReceived>(r, in, out);
      case Union::HandOverFailed:
        return take<HandOverFailed, fbs::HandOverFailed>(r, in, out);
      case Union::NONE:
        break;
    }
    return false;
  }
};

}  // namespace

std::string encode(std::span<const WorkerMessage> messages) {
  return encode_one<WorkerLink>(messages);
}
std::vector<std::string> encode_frames(std::span<const WorkerMessage> messages) {
  return encode_all<WorkerLink>(messages);
}
DecodeError decode(std::span<const std::byte> frame, std::vector<WorkerMessage>& out) {
  return decode_frame<WorkerLink>(frame, out);
}

}  // namespace limpet::wire
