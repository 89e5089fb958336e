// The link from the broker to workers.
#include "schema/wire_envelope.h"
#include "schema/wire_worker_parts.h"

namespace limpet::wire {
namespace {

auto put(Builder& fbb, const std::vector<Registered::Resume>& list) {
  fbs::Resume* to = nullptr;
  auto offset = fbb.CreateUninitializedVectorOfStructs(list.size(), &to);
  for (const Registered::Resume& j : list) {
    *to++ = fbs::Resume(raw(j.job), j.from_index, raw(j.attempt));
  }
  return offset;
}
auto put(Builder& fbb, const Registered& m) {
  auto release = put_held(fbb, m.release);
  auto resume = put(fbb, m.resume);
  auto drop = put(fbb, m.drop);
  return fbs::CreateRegistered(fbb, m.incarnation, m.heartbeat_ms, m.lease_ms, release, resume,
                               drop);
}
auto put(Builder& fbb, const RegisterRefused& m) {
  return fbs::CreateRegisterRefused(fbb, raw(m.code), wire::put(fbb, m.message));
}
auto put(Builder& fbb, const WhoAreYou&) { return fbs::CreateWhoAreYou(fbb); }
auto put(Builder& fbb, const Dispatch& m) {
  if (m.spec == nullptr) throw std::logic_error("a Dispatch without a spec");
  auto spec = wire::put(fbb, *m.spec);
  auto transcript = wire::put(fbb, m.transcript);
  return fbs::CreateDispatch(fbb, raw(m.job), raw(m.attempt), raw(m.session), raw(m.epoch),
                             m.ephemeral, raw(m.home_reason), m.base_tokens, m.prompt_tokens,
                             m.output_tokens, m.seed, m.deadline_ms, spec, m.has_transcript,
                             transcript, wire::put(fbb, m.tenant), m.keep_alive_ms,
                             m.session_max_tokens);
}
auto put(Builder& fbb, const TranscriptReply& m) {
  return fbs::CreateTranscriptReply(fbb, raw(m.job), raw(m.attempt), wire::put(fbb, m.transcript));
}
auto put(Builder& fbb, const CancelJob& m) {
  return fbs::CreateCancelJob(fbb, raw(m.job), raw(m.attempt));
}
auto put(Builder& fbb, const ResumeJob& m) {
  return fbs::CreateResumeJob(fbb, raw(m.job), raw(m.attempt), m.from_index);
}
auto put(Builder& fbb, const EndAck& m) {
  return fbs::CreateEndAck(fbb, raw(m.job), raw(m.attempt));
}
auto put(Builder& fbb, const ReleaseSession& m) {
  return fbs::CreateReleaseSession(fbb, raw(m.session), raw(m.epoch));
}
auto put(Builder& fbb, const Leave& m) { return fbs::CreateLeave(fbb, m.incarnation); }
auto put(Builder& fbb, const MayLeave& m) { return fbs::CreateMayLeave(fbb, m.incarnation); }
auto put(Builder& fbb, const HandOver& m) {
  auto endpoint = wire::put(fbb, m.endpoint);
  return fbs::CreateHandOver(fbb, raw(m.session), raw(m.epoch), endpoint, m.receiver,
                             wire::put(fbb, m.receiver_key));
}
auto put(Builder& fbb, const StopHandOver& m) {
  return fbs::CreateStopHandOver(fbb, raw(m.session), raw(m.epoch));
}
auto put(Builder& fbb, const ExpectSession& m) {
  auto tenant = wire::put(fbb, m.tenant);
  auto giver_key = wire::put(fbb, m.giver_key);
  return fbs::CreateExpectSession(fbb, raw(m.session), raw(m.epoch), m.giver, tenant, giver_key,
                                  m.tokens, m.has_job);
}
auto put(Builder& fbb, const KeepSession& m) {
  return fbs::CreateKeepSession(fbb, raw(m.session), raw(m.epoch));
}

bool get(Reader& r, const Vec<const fbs::Resume*>* in, const char* field,
         std::vector<Registered::Resume>& out) {
  if (in == nullptr) return true;
  if (!r.within(in->size(), Limits::kItems, field) || !r.spend(in->size() * sizeof(fbs::Resume))) {
    return false;
  }
  out.reserve(in->size());
  for (uint32_t i = 0; i < in->size(); ++i) {
    const auto j = element(in, i);
    Registered::Resume& to = out.emplace_back();
    to = {JobNumber{j.job()}, Attempt{j.attempt()}, 0};
    if (!r.count(j.from_index(), field, to.from_index)) return false;
  }
  return true;
}
bool get(Reader& r, const fbs::Registered* in, Registered& out) {
  out.incarnation = in->incarnation();
  return r.count(in->heartbeat_ms(), "heartbeat_ms", out.heartbeat_ms) &&
         r.count(in->lease_ms(), "lease_ms", out.lease_ms) &&
         get_held(r, in->release(), "release", out.release) &&
         get(r, in->resume(), "resume", out.resume) && get(r, in->drop(), "drop", out.drop);
}
bool get(Reader& r, const fbs::RegisterRefused* in, RegisterRefused& out) {
  return r.enumerator(in->code(), ErrorCode::forbidden, "code", out.code) &&
         r.text(in->message(), kErrorText, "message", out.message);
}
bool get(Reader&, const fbs::WhoAreYou*, WhoAreYou&) { return true; }
bool get(Reader& r, const fbs::Dispatch* in, Dispatch& out) {
  auto spec = std::make_shared<JobSpec>();
  if (!wire::get(r, in->spec(), *spec)) return false;
  out.spec = std::move(spec);
  out.job = JobNumber{in->job()};
  out.attempt = Attempt{in->attempt()};
  out.session = SessionNumber{in->session()};
  out.epoch = Epoch{in->epoch()};
  out.ephemeral = in->ephemeral();
  out.seed = in->seed();
  out.has_transcript = in->has_transcript();
  return r.enumerator(in->home_reason(), Reason::model_changed, "home_reason", out.home_reason) &&
         r.count(in->base_tokens(), "base_tokens", out.base_tokens) &&
         r.count(in->prompt_tokens(), "prompt_tokens", out.prompt_tokens, -1) &&
         r.count(in->output_tokens(), "output_tokens", out.output_tokens) &&
         r.count(in->deadline_ms(), "deadline_ms", out.deadline_ms) &&
         r.tokens(in->transcript(), Limits::kTokens, "transcript", out.transcript) &&
         r.name(in->tenant(), "tenant", out.tenant) &&
         r.count(in->keep_alive_ms(), "keep_alive_ms", out.keep_alive_ms, -1) &&
         r.count(in->session_max_tokens(), "session_max_tokens", out.session_max_tokens);
}
bool get(Reader& r, const fbs::TranscriptReply* in, TranscriptReply& out) {
  out.job = JobNumber{in->job()};
  out.attempt = Attempt{in->attempt()};
  return r.tokens(in->transcript(), Limits::kTokens, "transcript", out.transcript);
}
bool get(Reader&, const fbs::CancelJob* in, CancelJob& out) {
  out = {JobNumber{in->job()}, Attempt{in->attempt()}};
  return true;
}
bool get(Reader& r, const fbs::ResumeJob* in, ResumeJob& out) {
  out = {JobNumber{in->job()}, Attempt{in->attempt()}, 0};
  return r.count(in->from_index(), "from_index", out.from_index);
}
bool get(Reader&, const fbs::EndAck* in, EndAck& out) {
  out = {JobNumber{in->job()}, Attempt{in->attempt()}};
  return true;
}
bool get(Reader&, const fbs::ReleaseSession* in, ReleaseSession& out) {
  out = {SessionNumber{in->session()}, Epoch{in->epoch()}};
  return true;
}
bool get(Reader&, const fbs::Leave* in, Leave& out) {
  out.incarnation = in->incarnation();
  return true;
}
bool get(Reader&, const fbs::MayLeave* in, MayLeave& out) {
  out.incarnation = in->incarnation();
  return true;
}
bool get(Reader& r, const fbs::HandOver* in, HandOver& out) {
  out.session = SessionNumber{in->session()};
  out.epoch = Epoch{in->epoch()};
  out.receiver = in->receiver();
  return r.name(in->endpoint(), "endpoint", out.endpoint) &&
         r.name(in->receiver_key(), "receiver_key", out.receiver_key);
}
bool get(Reader&, const fbs::StopHandOver* in, StopHandOver& out) {
  out = {SessionNumber{in->session()}, Epoch{in->epoch()}};
  return true;
}
bool get(Reader& r, const fbs::ExpectSession* in, ExpectSession& out) {
  out = {SessionNumber{in->session()}, Epoch{in->epoch()}, in->giver(), {}, {}, 0,
         in->has_job()};
  return r.name(in->tenant(), "tenant", out.tenant) &&
         r.name(in->giver_key(), "giver_key", out.giver_key) &&
         r.count(in->tokens(), "tokens", out.tokens);
}
bool get(Reader&, const fbs::KeepSession* in, KeepSession& out) {
  out = {SessionNumber{in->session()}, Epoch{in->epoch()}};
  return true;
}

struct ToWorkerLink {
  using Message = BrokerToWorker;
  using Envelope = fbs::BrokerToWorkerEnvelope;
  using Union = fbs::BrokerToWorker;
  static constexpr const char* kIdentifier = "LPBW";
  static constexpr size_t kFrame = Limits::kWorkerFrame;
  static constexpr Union kLast = Union::MAX;
  static_assert(static_cast<size_t>(kLast) == std::variant_size_v<Message>);

  static auto put_message(Builder& fbb, const auto& m) { return put(fbb, m); }
  template <typename T>
  static Union type(flatbuffers::Offset<T>) {
    return fbs::BrokerToWorkerTraits<T>::enum_value;
  }
  template <typename Out, typename In>
  static bool take(Reader& r, const void* in, std::vector<Message>& out) {
    return get(r, static_cast<const In*>(in), out.emplace_back().template emplace<Out>());
  }
  static bool get_message(Reader& r, Union type, const void* in, std::vector<Message>& out) {
    switch (type) {
      case Union::Registered:
        return take<Registered, fbs::Registered>(r, in, out);
      case Union::RegisterRefused:
        return take<RegisterRefused, fbs::RegisterRefused>(r, in, out);
      case Union::WhoAreYou:
        return take<WhoAreYou, fbs::WhoAreYou>(r, in, out);
      case Union::Dispatch:
        return take<Dispatch, fbs::Dispatch>(r, in, out);
      case Union::TranscriptReply:
        return take<TranscriptReply, fbs::TranscriptReply>(r, in, out);
      case Union::CancelJob:
        return take<CancelJob, fbs::CancelJob>(r, in, out);
      case Union::ResumeJob:
        return take<ResumeJob, fbs::ResumeJob>(r, in, out);
      case Union::EndAck:
        return take<EndAck, fbs::EndAck>(r, in, out);
      case Union::ReleaseSession:
        return take<ReleaseSession, fbs::ReleaseSession>(r, in, out);
      case Union::Leave:
        return take<Leave, fbs::Leave>(r, in, out);
      case Union::MayLeave:
        return take<MayLeave, fbs::MayLeave>(r, in, out);
      case Union::HandOver:
        return take<HandOver, fbs::HandOver>(r, in, out);
      case Union::StopHandOver:
        return take<StopHandOver, fbs::StopHandOver>(r, in, out);
      case Union::ExpectSession:
        return take<ExpectSession, fbs::ExpectSession>(r, in, out);
      case Union::KeepSession:
        return take<KeepSession, fbs::KeepSession>(r, in, out);
      case Union::NONE:
        break;
    }
    return false;
  }
};

}  // namespace

std::string encode(std::span<const BrokerToWorker> messages) {
  return encode_one<ToWorkerLink>(messages);
}
std::vector<std::string> encode_frames(std::span<const BrokerToWorker> messages) {
  return encode_all<ToWorkerLink>(messages);
}
DecodeError decode(std::span<const std::byte> frame, std::vector<BrokerToWorker>& out) {
  return decode_frame<ToWorkerLink>(frame, out);
}

}  // namespace limpet::wire
