// What the wire's source files share: a bounded reader over one verified frame, and the thread's
// builder. Only schema/wire*.cpp include this (and with it the generated code).
#pragma once
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "flatbuffers/flatbuffers.h"
#include "limpet_generated.h"
#include "schema/wire.h"

namespace limpet::wire {

// No count of tokens, jobs or milliseconds is larger; sums of some of them cannot overflow.
inline constexpr int64_t kMaxCount = int64_t{1} << 48;

template <typename T>
using Vec = flatbuffers::Vector<T>;
using Builder = flatbuffers::FlatBufferBuilder;

// Copies fields out of a verified frame, each within its limit. Offsets of a hostile frame may
// lead many fields to the same bytes, so all that is copied is paid from the frame's own size.
// Every method returns false once something is wrong; `error` then says what.
class Reader {
 public:
  explicit Reader(size_t frame_bytes) : budget_(frame_bytes) {}

  DecodeError error;

  bool fail(ErrorCode code, std::string message) {
    error = {code, std::move(message)};
    return false;
  }
  bool spend(size_t bytes) {
    if (bytes > budget_) return fail(ErrorCode::invalid, "fields of the frame overlap");
    budget_ -= bytes;
    return true;
  }
  bool within(size_t size, size_t limit, const char* field) {
    if (size <= limit) return true;
    return fail(ErrorCode::too_large,
                std::string(field) + " is larger than its limit of " + std::to_string(limit));
  }
  bool text(const flatbuffers::String* in, size_t limit, const char* field, std::string& out) {
    if (in == nullptr) return true;
    if (!within(in->size(), limit, field) || !spend(in->size())) return false;
    out.assign(in->data(), in->size());
    return true;
  }
  bool name(const flatbuffers::String* in, const char* field, std::string& out) {
    return text(in, Limits::kName, field, out);
  }
  bool tokens(const Vec<int32_t>* in, size_t limit, const char* field, std::vector<Token>& out) {
    if (in == nullptr) return true;
    return within(in->size(), limit, field) && tokens(in->data(), in->size(), field, out);
  }
  bool tokens(const int32_t* in, size_t size, const char* field, std::vector<Token>& out) {
    if (!spend(size * sizeof(Token))) return false;
    out.assign(in, in + size);
    Token sign = 0;
    for (Token t : out) sign |= t;
    return sign >= 0 || fail(ErrorCode::invalid, std::string(field) + " holds a negative token");
  }
  bool count(int64_t in, const char* field, int64_t& out, int64_t least = 0) {
    if (in < least || in > kMaxCount) {
      return fail(ErrorCode::invalid, std::string(field) + " is out of range");
    }
    out = in;
    return true;
  }
  template <typename E>
  bool enumerator(uint8_t in, E last, const char* field, E& out) {
    if (in > raw(last)) {
      return fail(ErrorCode::invalid, std::string(field) + " is " + std::to_string(in) +
                                          ", which this version does not know");
    }
    out = static_cast<E>(in);
    return true;
  }

 private:
  size_t budget_;
};

// FlatBuffers reads in place by aligned loads; a transport's bytes lie where they lie. The copy,
// where one is needed, is the thread's own and is given back when it has grown large.
class Aligned {
 public:
  explicit Aligned(std::span<const std::byte> frame) : frame_(frame) {
    if (reinterpret_cast<uintptr_t>(frame.data()) % alignof(uint64_t) == 0) return;
    copy_.resize((frame.size() + 7) / 8);
    std::memcpy(copy_.data(), frame.data(), frame.size());
    frame_ = {reinterpret_cast<const std::byte*>(copy_.data()), frame.size()};
  }
  ~Aligned() {
    if (copy_.size() > kKeep) std::vector<uint64_t>().swap(copy_);
  }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(frame_.data()); }
  size_t size() const { return frame_.size(); }

 private:
  static constexpr size_t kKeep = 1u << 17;  // words
  inline static thread_local std::vector<uint64_t> copy_;
  std::span<const std::byte> frame_;
};

// A table costs at least eight bytes of a frame that we or any FlatBuffers library made, so the
// verifier's work is bounded by the frame's size even where offsets share tables.
inline flatbuffers::Verifier verifier(const Aligned& frame) {
  constexpr uint32_t kDepth = 16;
  return {frame.data(), frame.size(), kDepth, static_cast<uint32_t>(frame.size() / 8 + 16)};
}

template <typename Root>
const Root* verified(const Aligned& frame, const char* identifier) {
  if (frame.size() < 8) return nullptr;
  auto v = verifier(frame);
  return v.VerifyBuffer<Root>(identifier) ? flatbuffers::GetRoot<Root>(frame.data()) : nullptr;
}

// The thread's builder, empty. It keeps its memory from frame to frame unless that is large.
inline Builder& builder() {
  constexpr size_t kKeep = 4u << 20;
  thread_local Builder fbb(16384);
  thread_local size_t largest = 0;
  largest = std::max<size_t>(largest, fbb.GetSize());
  if (largest > kKeep) {
    fbb.Reset();
    largest = 0;
  } else {
    fbb.Clear();
  }
  return fbb;
}

inline std::string taken(const Builder& fbb) {
  return {reinterpret_cast<const char*>(fbb.GetBufferPointer()), fbb.GetSize()};
}

inline flatbuffers::Offset<flatbuffers::String> put(Builder& fbb, const std::string& s) {
  if (s.empty()) return 0;
  return fbb.CreateString(s.data(), s.size());
}
inline flatbuffers::Offset<Vec<int32_t>> put(Builder& fbb, const std::vector<Token>& tokens) {
  if (tokens.empty()) return 0;
  return fbb.CreateVector(tokens.data(), tokens.size());
}

// wire_spec.cpp
flatbuffers::Offset<fbs::JobSpec> put(Builder& fbb, const JobSpec& spec);
bool get(Reader& r, const fbs::JobSpec* in, JobSpec& out);
flatbuffers::Offset<fbs::Logprobs> put(Builder& fbb,
                                       const std::vector<std::vector<TokenLogprob>>& logprobs);
// `tokens` lists, or none when the table is absent.
bool get(Reader& r, const fbs::Logprobs* in, size_t tokens,
         std::vector<std::vector<TokenLogprob>>& out);

}  // namespace limpet::wire
