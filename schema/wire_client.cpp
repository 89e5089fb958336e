// The link between clients and the broker.
#include "schema/wire_envelope.h"

namespace limpet::wire {
namespace {

constexpr size_t kMessageText = 64u << 10;  // bytes of an error's text or a listing's detail

// ---- Client → broker ----------------------------------------------------------------------

auto put(Builder& fbb, const Submit& m) {
  if (m.spec == nullptr) throw std::logic_error("a Submit without a spec");
  return fbs::CreateSubmit(fbb, wire::put(fbb, *m.spec), m.stream, m.from_index);
}
auto put(Builder& fbb, const Attach& m) {
  return fbs::CreateAttach(fbb, wire::put(fbb, m.job_id), m.from_index);
}
auto put(Builder& fbb, const Detach& m) { return fbs::CreateDetach(fbb, wire::put(fbb, m.job_id)); }
auto put(Builder& fbb, const Cancel& m) { return fbs::CreateCancel(fbb, wire::put(fbb, m.job_id)); }
auto put(Builder& fbb, const List& m) {
  auto tenant = wire::put(fbb, m.tenant);
  auto worker = wire::put(fbb, m.worker);
  auto session = wire::put(fbb, m.session);
  return fbs::CreateList(fbb, static_cast<fbs::Listing>(m.what), m.limit, tenant, worker, session,
                         m.states, m.since);
}

auto put(Builder& fbb, const Drain& m) {
  return fbs::CreateDrain(fbb, wire::put(fbb, m.worker), m.incarnation);
}
auto put(Builder& fbb, const Release& m) {
  auto session = wire::put(fbb, m.session);
  return fbs::CreateRelease(fbb, session, wire::put(fbb, m.tenant));
}
auto put(Builder& fbb, const Retry& m) {
  auto job_id = wire::put(fbb, m.job_id);
  return fbs::CreateRetry(fbb, job_id, wire::put(fbb, m.tenant));
}

bool get(Reader& r, const fbs::Submit* in, Submit& out) {
  auto spec = std::make_shared<JobSpec>();
  if (!wire::get(r, in->spec(), *spec)) return false;
  out.spec = std::move(spec);
  out.stream = in->stream();
  return r.count(in->from_index(), "from_index", out.from_index);
}
bool get(Reader& r, const fbs::Attach* in, Attach& out) {
  return r.name(in->job_id(), "job_id", out.job_id) &&
         r.count(in->from_index(), "from_index", out.from_index);
}
bool get(Reader& r, const fbs::Detach* in, Detach& out) {
  return r.name(in->job_id(), "job_id", out.job_id);
}
bool get(Reader& r, const fbs::Cancel* in, Cancel& out) {
  return r.name(in->job_id(), "job_id", out.job_id);
}
bool get(Reader& r, const fbs::List* in, List& out) {
  out.limit = in->limit();
  out.states = in->states();
  return r.enumerator(static_cast<uint8_t>(in->what()), Listing::workers, "what", out.what) &&
         r.name(in->tenant(), "tenant", out.tenant) && r.name(in->worker(), "worker", out.worker) &&
         r.name(in->session(), "session", out.session) &&
         r.count(in->since(), "since", out.since);
}
bool get(Reader& r, const fbs::Drain* in, Drain& out) {
  out.incarnation = in->incarnation();
  return r.name(in->worker(), "worker", out.worker);
}
bool get(Reader& r, const fbs::Release* in, Release& out) {
  return r.name(in->session(), "session", out.session) &&
         r.name(in->tenant(), "tenant", out.tenant);
}
bool get(Reader& r, const fbs::Retry* in, Retry& out) {
  return r.name(in->job_id(), "job_id", out.job_id) && r.name(in->tenant(), "tenant", out.tenant);
}

struct ClientLink {
  using Message = ClientMessage;
  using Envelope = fbs::ClientEnvelope;
  using Union = fbs::ClientMessage;
  static constexpr const char* kIdentifier = "LPCB";
  static constexpr size_t kFrame = Limits::kClientFrame;
  static constexpr Union kLast = Union::MAX;
  static_assert(static_cast<size_t>(kLast) == std::variant_size_v<Message>);

  static auto put_message(Builder& fbb, const auto& m) { return put(fbb, m); }
  template <typename T>
  static Union type(flatbuffers::Offset<T>) {
    return fbs::ClientMessageTraits<T>::enum_value;
  }
  template <typename Out, typename In>
  static bool take(Reader& r, const void* in, std::vector<Message>& out) {
    return get(r, static_cast<const In*>(in), out.emplace_back().template emplace<Out>());
  }
  static bool get_message(Reader& r, Union type, const void* in, std::vector<Message>& out) {
    switch (type) {
      case Union::Submit:
        return take<Submit, fbs::Submit>(r, in, out);
      case Union::Attach:
        return take<Attach, fbs::Attach>(r, in, out);
      case Union::Detach:
        return take<Detach, fbs::Detach>(r, in, out);
      case Union::Cancel:
        return take<Cancel, fbs::Cancel>(r, in, out);
      case Union::List:
        return take<List, fbs::List>(r, in, out);
      case Union::Drain:
        return take<Drain, fbs::Drain>(r, in, out);
      case Union::Release:
        return take<Release, fbs::Release>(r, in, out);
      case Union::Retry:
        return take<Retry, fbs::Retry>(r, in, out);
      case Union::NONE:
        break;
    }
    return false;
  }
};

// ---- Broker → client ----------------------------------------------------------------------

auto put(Builder& fbb, const Accepted& m) {
  return fbs::CreateAccepted(fbb, wire::put(fbb, m.job_id), raw(m.state), m.created);
}
auto put(Builder& fbb, const Refused& m) {
  auto job_id = wire::put(fbb, m.job_id);
  return fbs::CreateRefused(fbb, job_id, raw(m.code), wire::put(fbb, m.message), m.retry_after_ms);
}
auto put(Builder& fbb, const Started& m) {
  auto job_id = wire::put(fbb, m.job_id);
  return fbs::CreateStarted(fbb, job_id, wire::put(fbb, m.worker), raw(m.residency), raw(m.reason),
                            m.cached_tokens, m.prefilled_tokens, m.attempt);
}
auto put(Builder& fbb, const Tokens& m) {
  auto job_id = wire::put(fbb, m.job_id);
  auto ids = wire::put(fbb, m.ids);
  auto text = wire::put(fbb, m.text);
  return fbs::CreateTokens(fbb, job_id, m.first_index, ids, text, wire::put(fbb, m.logprobs));
}
auto put(Builder& fbb, const Finished& m) {
  auto job_id = wire::put(fbb, m.job_id);
  auto tail = wire::put(fbb, m.tail_text);
  return fbs::CreateFinished(fbb, job_id, raw(m.reason), m.usage.prompt_tokens,
                             m.usage.cached_tokens, m.usage.output_tokens, m.timings.queue,
                             m.timings.first_token, m.timings.total, tail);
}
auto put(Builder& fbb, const Failed& m) {
  auto job_id = wire::put(fbb, m.job_id);
  return fbs::CreateFailed(fbb, job_id, raw(m.code), wire::put(fbb, m.message));
}
auto put(Builder& fbb, const JobInfo& m) {
  auto job_id = wire::put(fbb, m.job_id);
  auto session = wire::put(fbb, m.session);
  auto worker = wire::put(fbb, m.worker);
  auto detail = wire::put(fbb, m.detail);
  return fbs::CreateJobInfo(fbb, job_id, session, worker, raw(m.state), m.attempt, m.output_tokens,
                            detail, wire::put(fbb, m.tenant), m.accepted_at, m.ended_at,
                            raw(m.code));
}
auto put(Builder& fbb, const SessionInfo& m) {
  auto session = wire::put(fbb, m.session);
  auto home = wire::put(fbb, m.home);
  return fbs::CreateSessionInfo(fbb, session, home, raw(m.state), m.epoch, m.tokens, m.queued_jobs,
                                wire::put(fbb, m.tenant), m.keep_alive_ms, m.max_tokens,
                                m.used_at);
}
auto put(Builder& fbb, const WorkerInfo& m) {
  auto worker = wire::put(fbb, m.worker);
  auto device = wire::put(fbb, m.device);
  auto model = wire::put(fbb, m.model);
  auto state = wire::put(fbb, m.state);
  return fbs::CreateWorkerInfo(fbb, worker, device, model, state, m.sessions, m.running, m.slots,
                               m.free_kv_tokens, m.total_kv_tokens, m.waiting,
                               m.resident_kv_tokens);
}
template <typename T>
auto put_rows(Builder& fbb, const std::vector<T>& rows) {
  std::vector<decltype(put(fbb, rows[0]))> list;
  list.reserve(rows.size());
  for (const T& row : rows) list.push_back(put(fbb, row));
  return fbb.CreateVector(list);
}
auto put(Builder& fbb, const Listed& m) {
  auto jobs = put_rows(fbb, m.jobs);
  auto sessions = put_rows(fbb, m.sessions);
  auto workers = put_rows(fbb, m.workers);
  return fbs::CreateListed(fbb, jobs, sessions, workers, m.truncated);
}

bool get(Reader& r, const fbs::Accepted* in, Accepted& out) {
  out.created = in->created();
  return r.name(in->job_id(), "job_id", out.job_id) &&
         r.enumerator(in->state(), JobState::expired, "state", out.state);
}
bool get(Reader& r, const fbs::Refused* in, Refused& out) {
  return r.name(in->job_id(), "job_id", out.job_id) &&
         r.enumerator(in->code(), ErrorCode::forbidden, "code", out.code) &&
         r.text(in->message(), kMessageText, "message", out.message) &&
         r.count(in->retry_after_ms(), "retry_after_ms", out.retry_after_ms);
}
bool get(Reader& r, const fbs::Started* in, Started& out) {
  out.attempt = in->attempt();
  return r.name(in->job_id(), "job_id", out.job_id) && r.name(in->worker(), "worker", out.worker) &&
         r.enumerator(in->residency(), Residency::reprefilled, "residency", out.residency) &&
         r.enumerator(in->reason(), Reason::model_changed, "reason", out.reason) &&
         r.count(in->cached_tokens(), "cached_tokens", out.cached_tokens) &&
         r.count(in->prefilled_tokens(), "prefilled_tokens", out.prefilled_tokens);
}
bool get(Reader& r, const fbs::Tokens* in, Tokens& out) {
  return r.name(in->job_id(), "job_id", out.job_id) &&
         r.count(in->first_index(), "first_index", out.first_index) &&
         r.tokens(in->ids(), Limits::kTokens, "ids", out.ids) &&
         r.text(in->text(), Limits::kClientFrame, "text", out.text) &&
         wire::get(r, in->logprobs(), out.ids.size(), out.logprobs);
}
bool get(Reader& r, const fbs::Finished* in, Finished& out) {
  out.timings = {in->queue_s(), in->first_token_s(), in->total_s()};
  return r.name(in->job_id(), "job_id", out.job_id) &&
         r.enumerator(in->reason(), FinishReason::expired, "reason", out.reason) &&
         r.count(in->prompt_tokens(), "prompt_tokens", out.usage.prompt_tokens) &&
         r.count(in->cached_tokens(), "cached_tokens", out.usage.cached_tokens) &&
         r.count(in->output_tokens(), "output_tokens", out.usage.output_tokens) &&
         r.text(in->tail_text(), Limits::kClientFrame, "tail_text", out.tail_text);
}
bool get(Reader& r, const fbs::Failed* in, Failed& out) {
  return r.name(in->job_id(), "job_id", out.job_id) &&
         r.enumerator(in->code(), ErrorCode::forbidden, "code", out.code) &&
         r.text(in->message(), kMessageText, "message", out.message);
}
bool get(Reader& r, const fbs::JobInfo* in, JobInfo& out) {
  out.attempt = in->attempt();
  return r.name(in->job_id(), "job_id", out.job_id) &&
         r.name(in->session(), "session", out.session) &&
         r.name(in->worker(), "worker", out.worker) &&
         r.enumerator(in->state(), JobState::expired, "state", out.state) &&
         r.count(in->output_tokens(), "output_tokens", out.output_tokens) &&
         r.text(in->detail(), kMessageText, "detail", out.detail) &&
         r.name(in->tenant(), "tenant", out.tenant) &&
         r.count(in->accepted_at(), "accepted_at", out.accepted_at) &&
         r.count(in->ended_at(), "ended_at", out.ended_at) &&
         r.enumerator(in->code(), ErrorCode::forbidden, "code", out.code);
}
bool get(Reader& r, const fbs::SessionInfo* in, SessionInfo& out) {
  out.epoch = in->epoch();
  return r.name(in->session(), "session", out.session) && r.name(in->home(), "home", out.home) &&
         r.enumerator(in->state(), SessionState::running, "state", out.state) &&
         r.count(in->tokens(), "tokens", out.tokens) &&
         r.count(in->queued_jobs(), "queued_jobs", out.queued_jobs) &&
         r.name(in->tenant(), "tenant", out.tenant) &&
         r.count(in->keep_alive_ms(), "keep_alive_ms", out.keep_alive_ms, -1) &&
         r.count(in->max_tokens(), "max_tokens", out.max_tokens) &&
         r.count(in->used_at(), "used_at", out.used_at);
}
bool get(Reader& r, const fbs::WorkerInfo* in, WorkerInfo& out) {
  return r.name(in->worker(), "worker", out.worker) && r.name(in->device(), "device", out.device) &&
         r.name(in->model(), "model", out.model) && r.name(in->state(), "state", out.state) &&
         r.count(in->sessions(), "sessions", out.sessions) &&
         r.count(in->running(), "running", out.running) &&
         r.count(in->slots(), "slots", out.slots) &&
         r.count(in->free_kv_tokens(), "free_kv_tokens", out.free_kv_tokens) &&
         r.count(in->total_kv_tokens(), "total_kv_tokens", out.total_kv_tokens) &&
         r.count(in->waiting(), "waiting", out.waiting) &&
         r.count(in->resident_kv_tokens(), "resident_kv_tokens", out.resident_kv_tokens);
}
template <typename In, typename T>
bool get_rows(Reader& r, const Vec<flatbuffers::Offset<In>>* in, const char* field,
              std::vector<T>& out) {
  if (in == nullptr) return true;
  if (!r.within(in->size(), Limits::kItems, field) || !r.spend(in->size() * 8)) return false;
  out.resize(in->size());
  for (uint32_t i = 0; i < out.size(); ++i) {
    if (!get(r, in->Get(i), out[i])) return false;
  }
  return true;
}
bool get(Reader& r, const fbs::Listed* in, Listed& out) {
  out.truncated = in->truncated();
  return get_rows(r, in->jobs(), "jobs", out.jobs) &&
         get_rows(r, in->sessions(), "sessions", out.sessions) &&
         get_rows(r, in->workers(), "workers", out.workers);
}
auto put(Builder& fbb, const DrainStatus& m) {
  return fbs::CreateDrainStatus(fbb, wire::put(fbb, m.worker), static_cast<uint8_t>(m.state),
                                m.sessions, m.running, m.incarnation);
}
bool get(Reader& r, const fbs::DrainStatus* in, DrainStatus& out) {
  out.incarnation = in->incarnation();
  return r.name(in->worker(), "worker", out.worker) &&
         r.enumerator(in->state(), DrainStatus::State::gone, "state", out.state) &&
         r.count(in->sessions(), "sessions", out.sessions) &&
         r.count(in->running(), "running", out.running);
}

auto put(Builder& fbb, const Released& m) {
  return fbs::CreateReleased(fbb, wire::put(fbb, m.session), raw(m.state), m.tokens);
}
auto put(Builder& fbb, const Retried& m) {
  return fbs::CreateRetried(fbb, wire::put(fbb, m.job_id), raw(m.state), m.again);
}
bool get(Reader& r, const fbs::Released* in, Released& out) {
  return r.name(in->session(), "session", out.session) &&
         r.enumerator(in->state(), SessionState::running, "state", out.state) &&
         r.count(in->tokens(), "tokens", out.tokens);
}
bool get(Reader& r, const fbs::Retried* in, Retried& out) {
  out.again = in->again();
  return r.name(in->job_id(), "job_id", out.job_id) &&
         r.enumerator(in->state(), JobState::expired, "state", out.state);
}

struct ToClientLink {
  using Message = BrokerToClient;
  using Envelope = fbs::BrokerToClientEnvelope;
  using Union = fbs::BrokerToClient;
  static constexpr const char* kIdentifier = "LPBC";
  static constexpr size_t kFrame = Limits::kClientFrame;
  static constexpr Union kLast = Union::MAX;
  static_assert(static_cast<size_t>(kLast) == std::variant_size_v<Message>);

  static auto put_message(Builder& fbb, const auto& m) { return put(fbb, m); }
  template <typename T>
  static Union type(flatbuffers::Offset<T>) {
    return fbs::BrokerToClientTraits<T>::enum_value;
  }
  template <typename Out, typename In>
  static bool take(Reader& r, const void* in, std::vector<Message>& out) {
    return get(r, static_cast<const In*>(in), out.emplace_back().template emplace<Out>());
  }
  static bool get_message(Reader& r, Union type, const void* in, std::vector<Message>& out) {
    switch (type) {
      case Union::Accepted:
        return take<Accepted, fbs::Accepted>(r, in, out);
      case Union::Refused:
        return take<Refused, fbs::Refused>(r, in, out);
      case Union::Started:
        return take<Started, fbs::Started>(r, in, out);
      case Union::Tokens:
        return take<Tokens, fbs::Tokens>(r, in, out);
      case Union::Finished:
        return take<Finished, fbs::Finished>(r, in, out);
      case Union::Failed:
        return take<Failed, fbs::Failed>(r, in, out);
      case Union::Listed:
        return take<Listed, fbs::Listed>(r, in, out);
      case Union::DrainStatus:
        return take<DrainStatus, fbs::DrainStatus>(r, in, out);
      case Union::Released:
        return take<Released, fbs::Released>(r, in, out);
      case Union::Retried:
        return take<Retried, fbs::Retried>(r, in, out);
      case Union::NONE:
        break;
    }
    return false;
  }
};

}  // namespace

std::string encode(std::span<const ClientMessage> messages) {
  return encode_one<ClientLink>(messages);
}
std::string encode(std::span<const BrokerToClient> messages) {
  return encode_one<ToClientLink>(messages);
}
std::vector<std::string> encode_frames(std::span<const ClientMessage> messages) {
  return encode_all<ClientLink>(messages);
}
std::vector<std::string> encode_frames(std::span<const BrokerToClient> messages) {
  return encode_all<ToClientLink>(messages);
}
DecodeError decode(std::span<const std::byte> frame, std::vector<ClientMessage>& out) {
  return decode_frame<ClientLink>(frame, out);
}
DecodeError decode(std::span<const std::byte> frame, std::vector<BrokerToClient>& out) {
  return decode_frame<ToClientLink>(frame, out);
}

Sender sender_of(std::span<const std::byte> frame) {
  constexpr size_t kAt = 4, kSize = 4;  // FlatBuffers: after the offset of the root
  if (frame.size() < kAt + kSize) return Sender::unknown;
  const std::string_view id(reinterpret_cast<const char*>(frame.data()) + kAt, kSize);
  if (id == "LPCB") return Sender::client;
  if (id == "LPWB" || id == "LPGR" || id == "LPRG") return Sender::worker;
  return id == "LPBC" || id == "LPBW" ? Sender::broker : Sender::unknown;
}

}  // namespace limpet::wire
