// Envelopes of any direction: how a span of messages becomes a frame, and back. A direction is
// described by a struct with Message, Envelope, Union, kIdentifier, kFrame and kLast.
#pragma once
#include "schema/wire_frame.h"

namespace limpet::wire {

// Appends the messages to one frame unless it would grow beyond the limit.
template <typename Direction>
bool try_encode(std::span<const typename Direction::Message> messages, std::string& out) {
  thread_local std::vector<typename Direction::Union> types;
  thread_local std::vector<flatbuffers::Offset<void>> offsets;
  types.clear();
  offsets.clear();
  Builder& fbb = builder();
  if (messages.size() > Limits::kItems) return false;
  for (const auto& message : messages) {
    std::visit(
        [&](const auto& m) {
          auto offset = Direction::put_message(fbb, m);
          types.push_back(Direction::type(offset));
          offsets.push_back(offset.Union());
        },
        message);
    if (fbb.GetSize() + 8 * offsets.size() > Direction::kFrame) return false;
  }
  auto type_vector = fbb.template CreateVector<typename Direction::Union>(types);
  auto message_vector = fbb.CreateVector(offsets);
  typename Direction::Envelope::Builder envelope(fbb);
  envelope.add_major(kProtocolMajor);
  envelope.add_minor(kProtocolMinor);
  envelope.add_messages_type(type_vector);
  envelope.add_messages(message_vector);
  fbb.Finish(envelope.Finish(), Direction::kIdentifier);
  if (fbb.GetSize() > Direction::kFrame) return false;
  out = taken(fbb);
  return true;
}

template <typename Direction>
std::string encode_one(std::span<const typename Direction::Message> messages) {
  std::string out;
  if (!try_encode<Direction>(messages, out)) {
    throw std::length_error("a frame of " + std::to_string(messages.size()) +
                            " messages is larger than the protocol allows");
  }
  return out;
}

template <typename Direction>
void encode_split(std::span<const typename Direction::Message> messages,
                  std::vector<std::string>& out) {
  std::string frame;
  if (messages.size() <= 1) {
    out.push_back(encode_one<Direction>(messages));
  } else if (try_encode<Direction>(messages, frame)) {
    out.push_back(std::move(frame));
  } else {
    encode_split<Direction>(messages.first(messages.size() / 2), out);
    encode_split<Direction>(messages.subspan(messages.size() / 2), out);
  }
}

template <typename Direction>
std::vector<std::string> encode_all(std::span<const typename Direction::Message> messages) {
  std::vector<std::string> out;
  encode_split<Direction>(messages, out);
  return out;
}

// The envelope after verification and the version check; null with r.error set otherwise.
template <typename Direction>
const typename Direction::Envelope* open(Reader& r, const Aligned& frame) {
  const fbs::Version* version = verified<fbs::Version>(frame, Direction::kIdentifier);
  if (version == nullptr) {
    r.fail(ErrorCode::invalid, std::string("not a frame of this link (") + Direction::kIdentifier +
                                   "); is this the right port?");
    return nullptr;
  }
  if (version->major() != kProtocolMajor) {
    r.fail(ErrorCode::version, "the peer speaks protocol " + std::to_string(version->major()) +
                                   "." + std::to_string(version->minor()) + ", this side " +
                                   std::to_string(kProtocolMajor) + "." +
                                   std::to_string(kProtocolMinor) + "; upgrade the older one");
    return nullptr;
  }
  const auto* envelope = verified<typename Direction::Envelope>(frame, Direction::kIdentifier);
  if (envelope == nullptr) r.fail(ErrorCode::invalid, "the frame is damaged");
  return envelope;
}

template <typename Direction>
DecodeError decode_frame(std::span<const std::byte> bytes,
                         std::vector<typename Direction::Message>& out) {
  Reader r(bytes.size());
  if (!r.within(bytes.size(), Direction::kFrame, "the frame")) return r.error;
  const Aligned frame(bytes);
  const auto* envelope = open<Direction>(r, frame);
  if (envelope == nullptr) return r.error;
  const auto* messages = envelope->messages();
  const auto* types = envelope->messages_type();
  if (messages == nullptr || types == nullptr) return {};
  if (!r.within(messages->size(), Limits::kItems, "the number of messages")) return r.error;
  const size_t before = out.size();
  out.reserve(before + messages->size());
  for (uint32_t i = 0; i < messages->size(); ++i) {
    const auto type = types->template GetEnum<typename Direction::Union>(i);
    if (type > Direction::kLast && envelope->minor() > kProtocolMinor) continue;
    if (!Direction::get_message(r, type, messages->Get(i), out)) {
      if (r.error.code == ErrorCode::none) {
        r.fail(ErrorCode::invalid, "message type " + std::to_string(static_cast<int>(type)) +
                                       " is none of this version");
      }
      out.resize(before);
      return r.error;
    }
  }
  return {};
}

}  // namespace limpet::wire
