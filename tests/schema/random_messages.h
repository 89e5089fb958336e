// Messages of every kind with random contents, and their contents as text. Each message is taken
// apart by a structured binding, so a field that is added and forgotten here does not compile.
#pragma once
#include <random>
#include <sstream>
#include <tuple>

#include "schema/messages.h"

namespace limpet::test {

#define LIMPET_FIELDS(T, ...)     \
  inline auto fields(T& m) {      \
    auto& [__VA_ARGS__] = m;      \
    return std::tie(__VA_ARGS__); \
  }
LIMPET_FIELDS(ChatMessage, a, b)
LIMPET_FIELDS(Sampling, a, b, c, d, e, f, g)
LIMPET_FIELDS(JobSpec, a, b, c, d, e, f, g, h, i, j, k, l, m_, n, o, p, q)
LIMPET_FIELDS(TokenLogprob, a, b)
LIMPET_FIELDS(Usage, a, b, c)
LIMPET_FIELDS(Timings, a, b, c)
LIMPET_FIELDS(Submit, a, b, c)
LIMPET_FIELDS(Attach, a, b)
LIMPET_FIELDS(Detach, a)
LIMPET_FIELDS(Cancel, a)
LIMPET_FIELDS(List, a, b, c, d, e, f, g)
LIMPET_FIELDS(Drain, a, b)
LIMPET_FIELDS(Release, a, b)
LIMPET_FIELDS(Retry, a, b)
LIMPET_FIELDS(Released, a, b, c)
LIMPET_FIELDS(Retried, a, b, c)
LIMPET_FIELDS(DrainStatus, a, b, c, d, e)
LIMPET_FIELDS(Accepted, a, b, c)
LIMPET_FIELDS(Refused, a, b, c, d)
LIMPET_FIELDS(Started, a, b, c, d, e, f, g)
LIMPET_FIELDS(Tokens, a, b, c, d, e)
LIMPET_FIELDS(Finished, a, b, c, d, e)
LIMPET_FIELDS(Failed, a, b, c)
LIMPET_FIELDS(JobInfo, a, b, c, d, e, f, g, h, i, j, k)
LIMPET_FIELDS(SessionInfo, a, b, c, d, e, f, g, h, i, j)
LIMPET_FIELDS(WorkerInfo, a, b, c, d, e, f, g, h, i, j, k)
LIMPET_FIELDS(Listed, a, b, c, d)
LIMPET_FIELDS(HeldSession, a, b, c)
LIMPET_FIELDS(HeldJob, a, b, c, d, e)
LIMPET_FIELDS(Room, a, b, c, d, e)
LIMPET_FIELDS(Register, a, b, c, d, e, f, g, h, i, j, k, l)
LIMPET_FIELDS(Heartbeat, a, b, c, d, e)
LIMPET_FIELDS(NeedTranscript, a, b)
LIMPET_FIELDS(JobStarted, a, b, c, d, e, f, g)
LIMPET_FIELDS(StepRow, a, b, c, d, e, f)
LIMPET_FIELDS(StepTokens, a)
LIMPET_FIELDS(JobEnded, a, b, c, d, e, f, g, h, i)
LIMPET_FIELDS(SessionDropped, a, b, c)
LIMPET_FIELDS(Leaving, a, b)
LIMPET_FIELDS(Registered::Resume, a, b, c)
LIMPET_FIELDS(Registered, a, b, c, d, e, f)
LIMPET_FIELDS(RegisterRefused, a, b)
LIMPET_FIELDS(Dispatch, a, b, c, d, e, f, g, h, i, j, k, l, m_, n, o, p, q)
LIMPET_FIELDS(TranscriptReply, a, b, c)
LIMPET_FIELDS(CancelJob, a, b)
LIMPET_FIELDS(ResumeJob, a, b, c)
LIMPET_FIELDS(EndAck, a, b)
LIMPET_FIELDS(ReleaseSession, a, b)
LIMPET_FIELDS(SessionReceived, a, b, c)
LIMPET_FIELDS(HandOverFailed, a, b, c)
LIMPET_FIELDS(Leave, a)
LIMPET_FIELDS(MayLeave, a)
LIMPET_FIELDS(HandOver, a, b, c, d, e)
LIMPET_FIELDS(StopHandOver, a, b)
LIMPET_FIELDS(ExpectSession, a, b, c, d, e, f, g)
LIMPET_FIELDS(KeepSession, a, b)
LIMPET_FIELDS(TransferOpen, a, b, c, d, e)
LIMPET_FIELDS(TransferEnd, a, b, c, d)
LIMPET_FIELDS(TransferCredit, a, b, c, d, e)
LIMPET_FIELDS(TransferDone, a, b, c)
LIMPET_FIELDS(TransferRefused, a, b, c)
#undef LIMPET_FIELDS
inline std::tuple<> fields(WhoAreYou&) { return {}; }
inline auto fields(TransferPage& m) {  // `damaged` is what a reader finds out
  auto& [a, b, c, d, e, f, damaged] = m;
  return std::tie(a, b, c, d, e, f);
}

inline JobState last(JobState) { return JobState::expired; }
inline SessionState last(SessionState) { return SessionState::running; }
inline Residency last(Residency) { return Residency::reprefilled; }
inline Reason last(Reason) { return Reason::model_changed; }
inline FinishReason last(FinishReason) { return FinishReason::expired; }
inline ErrorCode last(ErrorCode) { return ErrorCode::forbidden; }
inline InputKind last(InputKind) { return InputKind::tokens; }
inline Listing last(Listing) { return Listing::workers; }
inline DrainStatus::State last(DrainStatus::State) { return DrainStatus::State::gone; }

class Filler {
 public:
  explicit Filler(uint64_t seed) : random_(seed) {}
  uint64_t below(uint64_t n) { return random_() % n; }

  void operator()(bool& v) { v = below(2) == 1; }
  void operator()(std::string& v) {
    v.resize(below(3) == 0 ? below(200) : below(9));
    for (char& c : v) c = static_cast<char>(below(256));
  }
  template <typename T>
  requires std::is_arithmetic_v<T>
  void operator()(T& v) {
    if constexpr (std::is_floating_point_v<T>) {
      v = static_cast<T>(below(2000)) / 7 - 100;
    } else {
      const int bits = sizeof(T) == 8 ? 48 : sizeof(T) == 4 ? 31 : 8;
      v = static_cast<T>(random_() & ((uint64_t{1} << (1 + below(bits))) - 1));
      if (std::is_signed_v<T> && sizeof(T) == 4 && v < 0) v = 0;
    }
  }
  template <typename T>
  requires std::is_enum_v<T>
  void operator()(T& v) {
    if constexpr (requires { last(v); }) {
      v = static_cast<T>(below(uint64_t{raw(last(v))} + 1));
    } else {  // a strong number: all its bits
      v = static_cast<T>(random_());
    }
  }
  template <typename T>
  void operator()(std::optional<T>& v) {
    if (below(2) == 1) (*this)(v.emplace());
  }
  template <typename T>
  void operator()(std::vector<T>& v) {
    v.resize(below(4) == 0 ? 0 : below(6));
    for (T& item : v) (*this)(item);
  }
  void operator()(std::shared_ptr<const JobSpec>& v) {
    auto spec = std::make_shared<JobSpec>();
    (*this)(*spec);
    v = std::move(spec);
  }
  void operator()(std::shared_ptr<const std::vector<std::byte>>& v) {
    auto page = std::make_shared<std::vector<std::byte>>();
    (*this)(*page);
    v = std::move(page);
  }
  template <typename T>
  requires requires(T& m) { fields(m); }
  void operator()(T& m) {
    std::apply([this](auto&... field) { ((*this)(field), ...); }, fields(m));
    if constexpr (requires { m.logprobs.size() + m.ids.size(); }) {
      // Told for every token or for none; one that tells nothing at all reads back as none.
      if (!m.logprobs.empty()) m.logprobs.resize(m.ids.size());
      for (auto& list : m.logprobs) list.resize(std::max<size_t>(list.size(), 1));
    }
  }

 private:
  std::mt19937_64 random_;
};

class Shower {
 public:
  std::string text() const { return out_.str(); }

  void operator()(const std::string& v) { out_ << v.size() << ':' << v << ' '; }
  template <typename T>
  requires std::is_arithmetic_v<T>
  void operator()(T v) { out_ << std::hexfloat << +v << ' '; }
  template <typename T>
  requires std::is_enum_v<T>
  void operator()(T v) { out_ << +raw(v) << ' '; }
  template <typename T>
  void operator()(const std::optional<T>& v) {
    out_ << (v ? "some " : "none ");
    if (v) (*this)(*v);
  }
  template <typename T>
  void operator()(const std::vector<T>& v) {
    out_ << '[' << v.size() << ' ';
    for (const T& item : v) (*this)(item);
    out_ << ']';
  }
  void operator()(const std::shared_ptr<const JobSpec>& v) { (*this)(*v); }
  void operator()(const std::shared_ptr<const std::vector<std::byte>>& v) { (*this)(*v); }
  template <typename T>
  requires requires(T& m) { fields(m); }
  void operator()(const T& m) {
    out_ << '{';
    std::apply([this](const auto&... field) { ((*this)(field), ...); }, fields(const_cast<T&>(m)));
    out_ << '}';
  }
  template <typename... T>
  void operator()(const std::variant<T...>& v) {
    out_ << '<' << v.index() << '>';
    std::visit(*this, v);
  }

 private:
  std::ostringstream out_;
};

template <typename T>
std::string show(const T& v) {
  Shower s;
  s(v);
  return s.text();
}

// One random message of each kind of the variant, in its order.
template <typename Variant, size_t I = 0>
void fill_each(Filler& fill, std::vector<Variant>& out) {
  if constexpr (I < std::variant_size_v<Variant>) {
    fill(out.emplace_back().template emplace<I>());
    fill_each<Variant, I + 1>(fill, out);
  }
}

}  // namespace limpet::test
