// Bytes ↔ messages. Every frame is one FlatBuffers `Envelope`: a protocol version and a vector
// of messages, so that what leaves for one peer in one turn of a loop is one frame.
//
// decode_* verify the whole buffer (FlatBuffers verifier, depth and table limits), the version,
// and every bound of Limits before anything is copied out; they allocate in proportion to the
// frame. They never throw on bad bytes and are safe on untrusted input. Enumerators that are not
// known are refused; unknown fields and message types of a newer minor version are skipped.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "schema/messages.h"

namespace limpet::wire {

using Bytes = std::vector<std::byte>;

struct DecodeError {
  ErrorCode code = ErrorCode::none;  // none: all is well
  std::string message;               // one line; says which field and what limit
};

// One frame. Messages that we make are within the limits; a frame that grows beyond its
// direction's limit all the same throws std::length_error. Any thread.
std::string encode(std::span<const ClientMessage> messages);
std::string encode(std::span<const BrokerToClient> messages);
std::string encode(std::span<const WorkerMessage> messages);
std::string encode(std::span<const BrokerToWorker> messages);
std::string encode(std::span<const GiverMessage> messages);
std::string encode(std::span<const ReceiverMessage> messages);

// As encode, in as many frames as the limits ask for (almost always one), in order.
std::vector<std::string> encode_frames(std::span<const ClientMessage> messages);
std::vector<std::string> encode_frames(std::span<const BrokerToClient> messages);
std::vector<std::string> encode_frames(std::span<const WorkerMessage> messages);
std::vector<std::string> encode_frames(std::span<const BrokerToWorker> messages);

// Append the frame's messages to `out`; on an error `out` is as it was.
DecodeError decode(std::span<const std::byte> frame, std::vector<ClientMessage>& out);
DecodeError decode(std::span<const std::byte> frame, std::vector<BrokerToClient>& out);
DecodeError decode(std::span<const std::byte> frame, std::vector<WorkerMessage>& out);
DecodeError decode(std::span<const std::byte> frame, std::vector<BrokerToWorker>& out);
DecodeError decode(std::span<const std::byte> frame, std::vector<GiverMessage>& out);
DecodeError decode(std::span<const std::byte> frame, std::vector<ReceiverMessage>& out);

// Who makes frames like this one, by its file identifier; nothing else of it is looked at.
enum class Sender : uint8_t { unknown, client, worker, broker };
Sender sender_of(std::span<const std::byte> frame);

// A JobSpec alone: how the store keeps it. The job id is part of it.
std::string encode_spec(const JobSpec& spec);
DecodeError decode_spec(std::span<const std::byte> bytes, JobSpec& out);

// Token logprobs of a chunk: how the store keeps them. Empty in, empty out.
std::string encode_logprobs(const std::vector<std::vector<TokenLogprob>>& logprobs);
DecodeError decode_logprobs(std::span<const std::byte> bytes,
                            std::vector<std::vector<TokenLogprob>>& out);

// What makes two submissions of one id the same request: 64 bits over every field but the id.
uint64_t body_hash(const JobSpec& spec);

// Bounds and sense of one request, beyond what its bytes can say: name lengths, counts, finite
// and in-range sampling parameters, an input that is there. Empty when it is fine, else one line.
std::string check(const JobSpec& spec);

}  // namespace limpet::wire
