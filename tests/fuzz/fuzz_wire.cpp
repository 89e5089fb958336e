// Any bytes into every decoder. What is read must be writable and read back the same.
#include <cstdint>
#include <cstdlib>

#include "schema/wire.h"

namespace {

using namespace limpet;

template <typename M>
void link(std::span<const std::byte> frame) {
  std::vector<M> once, twice;
  if (wire::decode(frame, once).code != ErrorCode::none) {
    if (!once.empty()) std::abort();
    return;
  }
  const std::string written = wire::encode(std::span<const M>(once));
  if (wire::decode(std::as_bytes(std::span(written)), twice).code != ErrorCode::none ||
      wire::encode(std::span<const M>(twice)) != written) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto frame = std::as_bytes(std::span(data, size));
  link<ClientMessage>(frame);
  link<BrokerToClient>(frame);
  link<WorkerMessage>(frame);
  link<BrokerToWorker>(frame);
  JobSpec spec;
  if (wire::decode_spec(frame, spec).code == ErrorCode::none) {
    wire::check(spec);
    wire::body_hash(spec);
  }
  std::vector<std::vector<TokenLogprob>> logprobs;
  wire::decode_logprobs(frame, logprobs);
  return 0;
}
