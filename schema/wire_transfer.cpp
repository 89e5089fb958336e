// The link between two workers, over which the KV of sessions goes.
#include <xxhash.h>

#include "schema/wire_envelope.h"
#include "schema/wire_worker_parts.h"

namespace limpet::wire {
namespace {

uint64_t checksum(std::span<const std::byte> bytes, int64_t index) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), static_cast<uint64_t>(index));
}

auto put(Builder& fbb, const TransferOpen& m) {
  return fbs::CreateTransferOpen(fbb, raw(m.session), raw(m.epoch), m.giver, m.receiver, m.layout);
}
// A page that is known to be damaged stays so for whoever reads it next.
auto put(Builder& fbb, const TransferPage& m) {
  if (m.bytes == nullptr) throw std::logic_error("a TransferPage without its bytes");
  auto tokens = wire::put(fbb, m.tokens);
  auto bytes =
      fbb.CreateVector(reinterpret_cast<const uint8_t*>(m.bytes->data()), m.bytes->size());
  const uint64_t sum = checksum(*m.bytes, m.index) ^ (m.damaged ? 1 : 0);
  return fbs::CreateTransferPage(fbb, raw(m.session), raw(m.epoch), m.giver, m.index, tokens, sum,
                                 bytes);
}
auto put(Builder& fbb, const TransferEnd& m) {
  return fbs::CreateTransferEnd(fbb, raw(m.session), raw(m.epoch), m.giver, m.tokens);
}
auto put(Builder& fbb, const TransferCredit& m) {
  return fbs::CreateTransferCredit(fbb, raw(m.session), raw(m.epoch), m.next_page, m.credit,
                                   m.again);
}
auto put(Builder& fbb, const TransferDone& m) {
  return fbs::CreateTransferDone(fbb, raw(m.session), raw(m.epoch), m.tokens);
}
auto put(Builder& fbb, const TransferRefused& m) {
  return fbs::CreateTransferRefused(fbb, raw(m.session), raw(m.epoch), wire::put(fbb, m.why));
}

void get_session(const auto* in, auto& out) {
  out.session = SessionNumber{in->session()};
  out.epoch = Epoch{in->epoch()};
}
bool get(Reader&, const fbs::TransferOpen* in, TransferOpen& out) {
  get_session(in, out);
  out.giver = in->giver();
  out.receiver = in->receiver();
  out.layout = in->layout();
  return true;
}
bool get(Reader& r, const fbs::TransferPage* in, TransferPage& out) {
  get_session(in, out);
  out.giver = in->giver();
  const size_t size = in->bytes() == nullptr ? 0 : in->bytes()->size();
  if (!r.count(in->index(), "index", out.index) ||
      !r.tokens(in->tokens(), Limits::kPageTokens, "tokens", out.tokens) ||
      !r.within(size, Limits::kPage, "bytes") || !r.spend(size)) {
    return false;
  }
  auto bytes = std::make_shared<std::vector<std::byte>>(size);
  if (size > 0) std::memcpy(bytes->data(), in->bytes()->data(), size);
  out.damaged = checksum(*bytes, out.index) != in->checksum();
  out.bytes = std::move(bytes);
  return true;
}
bool get(Reader& r, const fbs::TransferEnd* in, TransferEnd& out) {
  get_session(in, out);
  out.giver = in->giver();
  return r.count(in->tokens(), "tokens", out.tokens);
}
bool get(Reader& r, const fbs::TransferCredit* in, TransferCredit& out) {
  get_session(in, out);
  out.again = in->again();
  return r.count(in->next_page(), "next_page", out.next_page) &&
         r.count(in->credit(), "credit", out.credit);
}
bool get(Reader& r, const fbs::TransferDone* in, TransferDone& out) {
  get_session(in, out);
  return r.count(in->tokens(), "tokens", out.tokens);
}
bool get(Reader& r, const fbs::TransferRefused* in, TransferRefused& out) {
  get_session(in, out);
  return r.text(in->why(), kErrorText, "why", out.why);
}

struct GiverLink {
  using Message = GiverMessage;
  using Envelope = fbs::GiverEnvelope;
  using Union = fbs::GiverMessage;
  static constexpr const char* kIdentifier = "LPGR";
  static constexpr size_t kFrame = Limits::kWorkerFrame;
  static constexpr Union kLast = Union::MAX;
  static_assert(static_cast<size_t>(kLast) == std::variant_size_v<Message>);

  static auto put_message(Builder& fbb, const auto& m) { return put(fbb, m); }
  template <typename T>
  static Union type(flatbuffers::Offset<T>) {
    return fbs::GiverMessageTraits<T>::enum_value;
  }
  template <typename Out, typename In>
  static bool take(Reader& r, const void* in, std::vector<Message>& out) {
    return get(r, static_cast<const In*>(in), out.emplace_back().template emplace<Out>());
  }
  static bool get_message(Reader& r, Union type, const void* in, std::vector<Message>& out) {
    switch (type) {
      case Union::TransferOpen:
        return take<TransferOpen, fbs::TransferOpen>(r, in, out);
      case Union::TransferPage:
        return take<TransferPage, fbs::TransferPage>(r, in, out);
      case Union::TransferEnd:
        return take<TransferEnd, fbs::TransferEnd>(r, in, out);
      case Union::NONE:
        break;
    }
    return false;
  }
};

struct ReceiverLink {
  using Message = ReceiverMessage;
  using Envelope = fbs::ReceiverEnvelope;
  using Union = fbs::ReceiverMessage;
  static constexpr const char* kIdentifier = "LPRG";
  static constexpr size_t kFrame = Limits::kWorkerFrame;
  static constexpr Union kLast = Union::MAX;
  static_assert(static_cast<size_t>(kLast) == std::variant_size_v<Message>);

  static auto put_message(Builder& fbb, const auto& m) { return put(fbb, m); }
  template <typename T>
  static Union type(flatbuffers::Offset<T>) {
    return fbs::ReceiverMessageTraits<T>::enum_value;
  }
  template <typename Out, typename In>
  static bool take(Reader& r, const void* in, std::vector<Message>& out) {
    return get(r, static_cast<const In*>(in), out.emplace_back().template emplace<Out>());
  }
  static bool get_message(Reader& r, Union type, const void* in, std::vector<Message>& out) {
    switch (type) {
      case Union::TransferCredit:
        return take<TransferCredit, fbs::TransferCredit>(r, in, out);
      case Union::TransferDone:
        return take<TransferDone, fbs::TransferDone>(r, in, out);
      case Union::TransferRefused:
        return take<TransferRefused, fbs::TransferRefused>(r, in, out);
      case Union::NONE:
        break;
    }
    return false;
  }
};

}  // namespace

std::string encode(std::span<const GiverMessage> messages) {
  return encode_one<GiverLink>(messages);
}
std::string encode(std::span<const ReceiverMessage> messages) {
  return encode_one<ReceiverLink>(messages);
}
DecodeError decode(std::span<const std::byte> frame, std::vector<GiverMessage>& out) {
  return decode_frame<GiverLink>(frame, out);
}
DecodeError decode(std::span<const std::byte> frame, std::vector<ReceiverMessage>& out) {
  return decode_frame<ReceiverLink>(frame, out);
}

}  // namespace limpet::wire
