// Any bytes into every decoder. What is read must be writable and read back the same.
#include <span>

#include "schema/wire.h"
#include "tests/fuzz/target.h"
#include "tests/schema/random_messages.h"

namespace limpet::fuzz {
namespace {

template <typename M>
bool link(std::span<const std::byte> frame) {
  std::vector<M> once, twice;
  if (wire::decode(frame, once).code != ErrorCode::none) {
    expect(once.empty());
    return false;
  }
  const std::string written = wire::encode(std::span<const M>(once));
  expect(wire::decode(std::as_bytes(std::span(written)), twice).code == ErrorCode::none);
  expect(wire::encode(std::span<const M>(twice)) == written);
  return true;
}

bool run(std::string_view input) {
  const auto frame = std::as_bytes(std::span(input));
  bool taken = link<ClientMessage>(frame);
  taken = link<BrokerToClient>(frame) || taken;
  taken = link<WorkerMessage>(frame) || taken;
  taken = link<BrokerToWorker>(frame) || taken;
  taken = link<GiverMessage>(frame) || taken;
  taken = link<ReceiverMessage>(frame) || taken;
  JobSpec spec;
  if (wire::decode_spec(frame, spec).code == ErrorCode::none) {
    wire::check(spec);
    wire::body_hash(spec);
    taken = true;
  }
  std::vector<std::vector<TokenLogprob>> logprobs;
  return wire::decode_logprobs(frame, logprobs).code == ErrorCode::none || taken;
}

template <typename M>
void add(test::Filler& fill, std::vector<std::string>& out) {
  std::vector<M> messages;
  test::fill_each(fill, messages);
  for (const M& m : messages) out.push_back(wire::encode(std::span(&m, 1)));
  out.push_back(wire::encode(std::span<const M>(messages)));
}

std::vector<std::string> seeds() {
  std::vector<std::string> out;
  test::Filler fill(1);
  add<ClientMessage>(fill, out);
  add<BrokerToClient>(fill, out);
  add<WorkerMessage>(fill, out);
  add<BrokerToWorker>(fill, out);
  add<GiverMessage>(fill, out);
  add<ReceiverMessage>(fill, out);
  JobSpec spec;
  fill(spec);
  out.push_back(wire::encode_spec(spec));
  out.push_back(wire::encode_logprobs({{{1, -0.5f}, {2, -1.f}}, {{3, -2.f}}}));
  return out;
}

}  // namespace

const Target kWire{run, seeds};

}  // namespace limpet::fuzz
