// What both directions of the worker's link carry. Only schema/wire_*worker.cpp include this.
#pragma once
#include "schema/wire_frame.h"

namespace limpet::wire {

inline constexpr size_t kErrorText = 64u << 10;  // bytes

// The verifier does not see to the alignment of a vector's structs: they are copied out by bytes.
template <typename Struct>
Struct element(const Vec<const Struct*>* in, uint32_t i) {
  Struct out;
  std::memcpy(&out, in->Data() + i * sizeof(Struct), sizeof(Struct));
  return out;
}

inline auto put_held(Builder& fbb, const std::vector<HeldSession>& sessions) {
  fbs::HeldSession* to = nullptr;
  auto offset = fbb.CreateUninitializedVectorOfStructs(sessions.size(), &to);
  for (const HeldSession& s : sessions) {
    *to++ = fbs::HeldSession(raw(s.session), raw(s.epoch), s.tokens);
  }
  return offset;
}

inline bool get_held(Reader& r, const Vec<const fbs::HeldSession*>* in, const char* field,
                     std::vector<HeldSession>& out) {
  if (in == nullptr) return true;
  if (!r.within(in->size(), Limits::kTokens, field) ||
      !r.spend(in->size() * sizeof(fbs::HeldSession))) {
    return false;
  }
  out.reserve(in->size());
  for (uint32_t i = 0; i < in->size(); ++i) {
    const auto s = element(in, i);
    HeldSession& held = out.emplace_back();
    held = {SessionNumber{s.session()}, Epoch{s.epoch()}, 0};
    if (!r.count(s.tokens(), "sessions.tokens", held.tokens)) return false;
  }
  return true;
}

}  // namespace limpet::wire
