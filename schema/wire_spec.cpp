// A job's body on the wire and in the store: bytes, bounds, hash.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bit>
#include <cmath>

#include "schema/wire_frame.h"

namespace limpet::wire {
namespace {

constexpr const char* kSpecIdentifier = "LPJS";
constexpr const char* kLogprobsIdentifier = "LPLP";
constexpr size_t kPairs = Limits::kLogprobs + 1;  // the chosen token and its alternatives
constexpr int64_t kLongestDeadline = int64_t{366} * 24 * 3600 * 1000;
constexpr int32_t kHighestPriority = 1000;

void copy_sampling(const fbs::Sampling* in, Sampling& out) {
  if (in == nullptr) return;
  out.temperature = in->temperature();
  out.top_p = in->top_p();
  out.top_k = in->top_k();
  out.min_p = in->min_p();
  out.repetition_penalty = in->repetition_penalty();
  if (in->seed().has_value()) out.seed = in->seed().value();
  out.logprobs = in->logprobs();
}

bool get_messages(Reader& r, const fbs::JobSpec* in, JobSpec& out) {
  if (in->messages() == nullptr) return true;
  if (!r.within(in->messages()->size(), Limits::kMessages, "messages")) return false;
  if (!r.spend(in->messages()->size() * 8)) return false;
  out.messages.resize(in->messages()->size());
  for (uint32_t i = 0; i < out.messages.size(); ++i) {
    const auto* m = in->messages()->Get(i);
    if (!r.name(m->role(), "messages.role", out.messages[i].role) ||
        !r.text(m->content(), Limits::kText, "messages.content", out.messages[i].content)) {
      return false;
    }
  }
  return true;
}

bool get_stops(Reader& r, const fbs::JobSpec* in, JobSpec& out) {
  if (in->stop() != nullptr) {
    if (!r.within(in->stop()->size(), Limits::kStops, "stop")) return false;
    out.stop.resize(in->stop()->size());
    for (uint32_t i = 0; i < out.stop.size(); ++i) {
      if (!r.text(in->stop()->Get(i)->text(), Limits::kStopBytes, "stop", out.stop[i])) {
        return false;
      }
    }
  }
  return r.tokens(in->stop_tokens(), Limits::kStops, "stop_tokens", out.stop_tokens);
}

// What is hashed, in a fixed order with every length told. Stored hashes depend on it: a new
// field is appended only where it is not at its default.
class Digest {
 public:
  Digest() { bytes_.clear(); }
  template <typename T>
  void number(T v) {
    static_assert(std::is_arithmetic_v<T>);
    if constexpr (std::is_floating_point_v<T>) v += T{0};  // -0 is 0
    bytes_.append(reinterpret_cast<const char*>(&v), sizeof v);
  }
  void text(const std::string& s) {
    number(uint64_t{s.size()});
    bytes_ += s;
  }
  void tokens(const std::vector<Token>& v) {
    number(uint64_t{v.size()});
    bytes_.append(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(Token));
  }
  uint64_t value() const { return XXH3_64bits(bytes_.data(), bytes_.size()); }

 private:
  inline static thread_local std::string bytes_;
};

bool printable(const std::string& s) {
  return std::all_of(s.begin(), s.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
}

std::string check_input(const JobSpec& s) {
  const std::string text_limit = std::to_string(Limits::kText) + " bytes";
  switch (s.kind) {
    case InputKind::messages: {
      if (s.messages.empty()) return "messages is empty: give at least one";
      if (s.messages.size() > Limits::kMessages) return "messages holds too many messages";
      size_t bytes = 0;
      for (const ChatMessage& m : s.messages) {
        if (m.role.empty() || m.role.size() > Limits::kName || !printable(m.role)) {
          return "messages.role must be a short printable word such as user";
        }
        bytes += m.content.size();
      }
      return bytes > Limits::kText ? "messages hold more than " + text_limit : "";
    }
    case InputKind::text:
      if (s.text.empty()) return "text is empty";
      return s.text.size() > Limits::kText ? "text is longer than " + text_limit : "";
    case InputKind::tokens:
      if (s.tokens.empty()) return "tokens is empty";
      if (s.tokens.size() > Limits::kTokens) return "tokens holds too many tokens";
      for (Token t : s.tokens) {
        if (t < 0) return "tokens holds a negative token";
      }
      return "";
  }
  return "kind is none of messages, text, tokens";
}

std::string check_sampling(const Sampling& s) {
  const auto in = [](float v, float low, float high) {  // false for NaN
    return v >= low && v <= high;
  };
  if (!in(s.temperature, 0, 100)) return "temperature must be within 0 and 100";
  if (!in(s.top_p, 0, 1) || s.top_p == 0) return "top_p must be above 0 and at most 1";
  if (s.top_k < 0) return "top_k must be 0 (off) or more";
  if (!in(s.min_p, 0, 1)) return "min_p must be within 0 and 1";
  if (!in(s.repetition_penalty, 0.01f, 100)) {
    return "repetition_penalty must be within 0.01 and 100";
  }
  if (s.logprobs < -1 || s.logprobs > static_cast<int32_t>(Limits::kLogprobs)) {
    return "logprobs must be within -1 (none) and " + std::to_string(Limits::kLogprobs);
  }
  return "";
}

std::string check_stops(const JobSpec& s) {
  if (s.stop.size() > Limits::kStops || s.stop_tokens.size() > Limits::kStops) {
    return "stop and stop_tokens take at most " + std::to_string(Limits::kStops) + " entries each";
  }
  for (const std::string& stop : s.stop) {
    if (stop.empty() || stop.size() > Limits::kStopBytes) {
      return "a stop string must have 1 to " + std::to_string(Limits::kStopBytes) + " bytes";
    }
  }
  for (Token t : s.stop_tokens) {
    if (t < 0) return "stop_tokens holds a negative token";
  }
  return "";
}

}  // namespace

flatbuffers::Offset<fbs::JobSpec> put(Builder& fbb, const JobSpec& s) {
  flatbuffers::Offset<Vec<flatbuffers::Offset<fbs::ChatMessage>>> messages = 0;
  if (!s.messages.empty()) {
    std::vector<flatbuffers::Offset<fbs::ChatMessage>> list;
    list.reserve(s.messages.size());
    for (const ChatMessage& m : s.messages) {
      auto role = put(fbb, m.role);
      auto content = put(fbb, m.content);
      list.push_back(fbs::CreateChatMessage(fbb, role, content));
    }
    messages = fbb.CreateVector(list);
  }
  flatbuffers::Offset<Vec<flatbuffers::Offset<fbs::StopString>>> stop = 0;
  if (!s.stop.empty()) {
    std::vector<flatbuffers::Offset<fbs::StopString>> list;
    for (const std::string& text : s.stop) {
      list.push_back(fbs::CreateStopString(fbb, put(fbb, text)));
    }
    stop = fbb.CreateVector(list);
  }
  flatbuffers::Optional<uint64_t> seed;
  if (s.sampling.seed) seed = *s.sampling.seed;
  auto sampling = fbs::CreateSampling(fbb, s.sampling.temperature, s.sampling.top_p,
                                      s.sampling.top_k, s.sampling.min_p,
                                      s.sampling.repetition_penalty, seed, s.sampling.logprobs);
  auto job_id = put(fbb, s.job_id);
  auto session = put(fbb, s.session);
  auto text = put(fbb, s.text);
  auto tokens = put(fbb, s.tokens);
  auto stop_tokens = put(fbb, s.stop_tokens);
  return fbs::CreateJobSpec(fbb, job_id, session, static_cast<fbs::InputKind>(s.kind), messages,
                            text, tokens, sampling, s.max_tokens, stop, stop_tokens, s.ignore_eos,
                            s.deadline_ms, s.priority, s.require_resident, s.rewind_to,
                            s.keep_alive_ms, s.session_max_tokens);
}

bool get(Reader& r, const fbs::JobSpec* in, JobSpec& out) {
  if (in == nullptr) return r.fail(ErrorCode::invalid, "spec is missing");
  copy_sampling(in->sampling(), out.sampling);
  out.max_tokens = in->max_tokens();
  out.ignore_eos = in->ignore_eos();
  out.deadline_ms = in->deadline_ms();
  out.priority = in->priority();
  out.require_resident = in->require_resident();
  out.rewind_to = in->rewind_to();
  out.keep_alive_ms = in->keep_alive_ms();
  out.session_max_tokens = in->session_max_tokens();
  return r.name(in->job_id(), "job_id", out.job_id) &&
         r.name(in->session(), "session", out.session) &&
         r.enumerator(static_cast<uint8_t>(in->kind()), InputKind::tokens, "kind", out.kind) &&
         get_messages(r, in, out) && r.text(in->text(), Limits::kText, "text", out.text) &&
         r.tokens(in->tokens(), Limits::kTokens, "tokens", out.tokens) && get_stops(r, in, out);
}

flatbuffers::Offset<fbs::Logprobs> put(Builder& fbb,
                                       const std::vector<std::vector<TokenLogprob>>& logprobs) {
  if (logprobs.empty()) return 0;
  std::vector<uint8_t> counts;
  std::vector<fbs::TokenLogprob> pairs;
  for (const auto& list : logprobs) {
    if (list.size() > kPairs) throw std::length_error("too many logprobs for one token");
    counts.push_back(static_cast<uint8_t>(list.size()));
    for (const TokenLogprob& p : list) pairs.emplace_back(p.token, p.logprob);
  }
  auto count_vector = fbb.CreateVector(counts);
  return fbs::CreateLogprobs(fbb, count_vector, fbb.CreateVectorOfStructs(pairs));
}

bool get(Reader& r, const fbs::Logprobs* in, size_t tokens,
         std::vector<std::vector<TokenLogprob>>& out) {
  if (in == nullptr || in->counts() == nullptr || in->counts()->size() == 0) return true;
  const auto* counts = in->counts();
  const uint32_t have = in->pairs() == nullptr ? 0 : in->pairs()->size();
  if (counts->size() != tokens) {
    return r.fail(ErrorCode::invalid, "logprobs and ids differ in number");
  }
  if (!r.spend(counts->size() + have * sizeof(fbs::TokenLogprob))) return false;
  out.resize(tokens);
  uint32_t next = 0;
  for (uint32_t i = 0; i < tokens; ++i) {
    const uint32_t n = counts->Get(i);
    if (!r.within(n, kPairs, "logprobs of one token")) return false;
    if (n > have - next) return r.fail(ErrorCode::invalid, "logprobs are fewer than told");
    out[i].reserve(n);
    for (const uint32_t end = next + n; next < end; ++next) {
      const auto* p = in->pairs()->Get(next);
      if (p->token() < 0) return r.fail(ErrorCode::invalid, "logprobs hold a negative token");
      out[i].push_back({p->token(), p->logprob()});
    }
  }
  return next == have || r.fail(ErrorCode::invalid, "logprobs are more than told");
}

std::string encode_spec(const JobSpec& spec) {
  Builder& fbb = builder();
  fbb.Finish(put(fbb, spec), kSpecIdentifier);
  return taken(fbb);
}

DecodeError decode_spec(std::span<const std::byte> bytes, JobSpec& out) {
  Reader r(bytes.size());
  if (!r.within(bytes.size(), Limits::kClientFrame, "the stored job")) return r.error;
  const Aligned frame(bytes);
  const auto* in = verified<fbs::JobSpec>(frame, kSpecIdentifier);
  if (in == nullptr) return {ErrorCode::invalid, "the stored job is damaged"};
  JobSpec spec;
  if (get(r, in, spec)) out = std::move(spec);
  return r.error;
}

std::string encode_logprobs(const std::vector<std::vector<TokenLogprob>>& logprobs) {
  if (logprobs.empty()) return {};
  Builder& fbb = builder();
  fbb.Finish(put(fbb, logprobs), kLogprobsIdentifier);
  return taken(fbb);
}

DecodeError decode_logprobs(std::span<const std::byte> bytes,
                            std::vector<std::vector<TokenLogprob>>& out) {
  if (bytes.empty()) {
    out.clear();
    return {};
  }
  Reader r(bytes.size());
  if (!r.within(bytes.size(), Limits::kWorkerFrame, "stored logprobs")) return r.error;
  const Aligned frame(bytes);
  const auto* in = verified<fbs::Logprobs>(frame, kLogprobsIdentifier);
  if (in == nullptr) return {ErrorCode::invalid, "stored logprobs are damaged"};
  std::vector<std::vector<TokenLogprob>> list;
  const size_t tokens = in->counts() == nullptr ? 0 : in->counts()->size();
  if (get(r, in, tokens, list)) out = std::move(list);
  return r.error;
}

uint64_t body_hash(const JobSpec& s) {
  Digest d;
  d.text(s.session);
  d.number(raw(s.kind));
  d.number(uint64_t{s.messages.size()});
  for (const ChatMessage& m : s.messages) {
    d.text(m.role);
    d.text(m.content);
  }
  d.text(s.text);
  d.tokens(s.tokens);
  d.number(s.sampling.temperature);
  d.number(s.sampling.top_p);
  d.number(s.sampling.top_k);
  d.number(s.sampling.min_p);
  d.number(s.sampling.repetition_penalty);
  d.number(uint8_t{s.sampling.seed.has_value()});
  d.number(s.sampling.seed.value_or(0));
  d.number(s.sampling.logprobs);
  d.number(s.max_tokens);
  d.number(uint64_t{s.stop.size()});
  for (const std::string& stop : s.stop) d.text(stop);
  d.tokens(s.stop_tokens);
  d.number(uint8_t{s.ignore_eos});
  d.number(s.deadline_ms);
  d.number(s.priority);
  d.number(uint8_t{s.require_resident});
  d.number(s.rewind_to);
  if (s.keep_alive_ms != -1 || s.session_max_tokens != 0) {  // of version 1.3
    d.number(s.keep_alive_ms);
    d.number(s.session_max_tokens);
  }
  return d.value();
}

std::string check(const JobSpec& s) {
  if (s.job_id.empty() || s.job_id.size() > Limits::kName || !printable(s.job_id)) {
    return "job_id must have 1 to " + std::to_string(Limits::kName) + " printable bytes";
  }
  if (s.session.size() > Limits::kName || !printable(s.session)) {
    return "session must have at most " + std::to_string(Limits::kName) + " printable bytes";
  }
  if (s.max_tokens < 1 || s.max_tokens > static_cast<int32_t>(Limits::kTokens)) {
    return "max_tokens must be within 1 and " + std::to_string(Limits::kTokens);
  }
  if (s.deadline_ms < 0 || s.deadline_ms > kLongestDeadline) {
    return "deadline_ms must be within 0 (none) and a year";
  }
  if (std::abs(int64_t{s.priority}) > kHighestPriority) {
    return "priority must be within -1000 and 1000";
  }
  if (s.rewind_to < -1 || s.rewind_to > static_cast<int64_t>(Limits::kTokens)) {
    return "rewind_to must be -1 (off) or a token position";
  }
  if (s.keep_alive_ms < -1 || s.keep_alive_ms > kLongestDeadline) {
    return "keep_alive must be within 0 and a year, or absent";
  }
  if (s.session_max_tokens < 0 || s.session_max_tokens > static_cast<int64_t>(Limits::kTokens)) {
    return "session_max_tokens must be within 1 and " + std::to_string(Limits::kTokens) +
           ", or absent";
  }
  if (s.session.empty() && (s.keep_alive_ms >= 0 || s.session_max_tokens > 0)) {
    return "keep_alive and session_max_tokens are a session's: name one";
  }
  if (std::string wrong = check_input(s); !wrong.empty()) return wrong;
  if (std::string wrong = check_sampling(s.sampling); !wrong.empty()) return wrong;
  return check_stops(s);
}

}  // namespace limpet::wire
