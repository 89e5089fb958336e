// A peer that means harm, over real ZeroMQ: what the campaign lets loose on a broker while others
// work. One line of JSON at its end: what it sent, and what it was answered.
//
//   hostile_peer MODE ENDPOINT SECONDS SEED [KEY SERVER_PUBLIC_KEY]
//
//   random    frames of any bytes
//   mutated   frames that are right but for a few bits
//   giant     frames at and beyond the limits
//   flood     requests as fast as the socket takes them, whose answers nobody reads
//   replay    a worker that reports on others' jobs and sessions, of attempts and epochs old, wrong
//             and right
//   impostor  a worker under the name that another one has (`one`)
#include <zmq.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>

#include "keys/keys.h"
#include "schema/wire.h"
#include "tests/schema/random_messages.h"

namespace limpet::campaign {
namespace {

using Clock = std::chrono::steady_clock;

struct Arguments {
  std::string mode, endpoint, key, server_public_key;
  double seconds = 1;
  uint64_t seed = 1;
};

class Peer {
 public:
  explicit Peer(const Arguments& a)
      : context_(zmq_ctx_new()), socket_(zmq_socket(context_, ZMQ_DEALER)), rng_(a.seed) {
    const int soon = 0, high_water = 1000, patience = 20;
    zmq_setsockopt(socket_, ZMQ_LINGER, &soon, sizeof soon);
    zmq_setsockopt(socket_, ZMQ_SNDHWM, &high_water, sizeof high_water);
    zmq_setsockopt(socket_, ZMQ_SNDTIMEO, &patience, sizeof patience);
    keys::use(socket_, keys::identify(a.key, a.server_public_key));
    zmq_connect(socket_, a.endpoint.c_str());
  }
  ~Peer() {
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  void say(const std::string& frame) {
    if (zmq_send(socket_, frame.data(), frame.size(), 0) < 0) {
      ++stuck;
      return;
    }
    ++sent;
    bytes += static_cast<int64_t>(frame.size());
  }
  template <typename M>
  void say_message(const M& m) {
    say(wire::encode(std::span(&m, 1)));
  }
  void read_all() {
    char part[4096];
    while (zmq_recv(socket_, part, sizeof part, ZMQ_DONTWAIT) >= 0) ++answers;
  }
  uint64_t below(uint64_t n) { return rng_() % n; }
  std::mt19937_64& rng() { return rng_; }

  int64_t sent = 0, stuck = 0, bytes = 0, answers = 0;

 private:
  void* context_;
  void* socket_;
  std::mt19937_64 rng_;
};

void pause(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

void random_frames(Peer& peer) {
  std::string frame(peer.below(2000), '\0');
  for (char& c : frame) c = static_cast<char>(peer.below(256));
  peer.say(frame);
  peer.read_all();
  pause(2);
}

void mutated_frames(Peer& peer) {
  test::Filler fill(peer.below(1 << 30));
  std::vector<ClientMessage> asked;
  std::vector<WorkerMessage> told;
  test::fill_each(fill, asked);
  test::fill_each(fill, told);
  std::string frame = peer.below(2) == 0 ? wire::encode(std::span<const ClientMessage>(asked))
                                         : wire::encode(std::span<const WorkerMessage>(told));
  for (uint64_t flips = 1 + peer.below(4); flips > 0; --flips) {
    frame[peer.below(frame.size())] ^= static_cast<char>(1 << peer.below(8));
  }
  if (peer.below(4) == 0) frame.resize(peer.below(frame.size()) + 1);
  peer.say(frame);
  peer.read_all();
  pause(5);
}

void giant_frames(Peer& peer) {
  constexpr size_t kSizes[] = {Limits::kClientFrame, Limits::kClientFrame + 1,
                               Limits::kWorkerFrame, Limits::kWorkerFrame + 1};
  peer.say(std::string(kSizes[peer.below(4)], 'x'));
  peer.read_all();
  pause(200);
}

// Its own tenant's, and small; the caps of that tenant are what holds it.
void flood(Peer& peer) {
  for (int i = 0; i < 50; ++i) {
    auto spec = std::make_shared<JobSpec>();
    spec->job_id = "flood-" + std::to_string(peer.below(1000));
    spec->session = "flood-" + std::to_string(peer.below(20));
    spec->kind = InputKind::tokens;
    spec->tokens = {5, 6, static_cast<Token>(peer.below(200))};
    spec->max_tokens = 2;
    peer.say_message(ClientMessage(Submit{spec, true, 0}));
    peer.say_message(ClientMessage(List{Listing::jobs, 1000}));
    peer.say_message(ClientMessage(Attach{spec->job_id, 0}));
  }
  pause(10);
}

WorkerMessage replayed(Peer& peer) {
  const JobNumber job{1 + peer.below(3000)};
  const Attempt attempt{static_cast<uint32_t>(peer.below(4))};
  const SessionNumber session{1 + peer.below(1000)};
  const Epoch epoch{peer.below(12)};
  switch (peer.below(6)) {
    case 0:
      return JobStarted{job, attempt, Residency::resident, Reason::none, 10, 0, {7, 7, 7}};
    case 1:
      return StepTokens{
          {StepRow{job, attempt, static_cast<int64_t>(peer.below(50)), {666}, "!", {}}}};
    case 2:
      return JobEnded{job, attempt, peer.below(2) == 0, FinishReason::stop,
                      static_cast<int64_t>(peer.below(50)), "", ErrorCode::worker_error, "it says",
                      false};
    case 3:
      return SessionDropped{session, epoch, Reason::evicted};
    case 4:
      return SessionReceived{session, epoch, static_cast<int64_t>(peer.below(500))};
    default:
      return HandOverFailed{session, epoch, "it says"};
  }
}

// Takes part under this name, without a place for any job.
void take_part(Peer& peer, const std::string& name, uint64_t incarnation) {
  Register hello;
  hello.worker = name;
  hello.incarnation = incarnation;
  hello.device = "cpu";
  hello.model = "hostile";
  for (int i = 0; i < 50; ++i) {
    hello.sessions.push_back(
        {SessionNumber{1 + peer.below(1000)}, Epoch{peer.below(12)}, 100});
    hello.jobs.push_back({JobNumber{1 + peer.below(3000)},
                          Attempt{static_cast<uint32_t>(peer.below(4))}, 5, true, false});
  }
  peer.say_message(WorkerMessage(hello));
}

void replay(Peer& peer, const std::string& name, uint64_t incarnation) {
  if (peer.below(100) == 0) take_part(peer, name, incarnation);
  for (int i = 0; i < 20; ++i) peer.say_message(replayed(peer));
  peer.read_all();
  pause(10);
}

int run(const Arguments& a) {
  Peer peer(a);
  const auto until = Clock::now() + std::chrono::duration<double>(a.seconds);
  const uint64_t incarnation = a.seed | 1;
  const std::string name = a.mode == "impostor" ? "one" : "mallory";
  const bool works = a.mode == "impostor" || a.mode == "replay";
  if (works) take_part(peer, name, incarnation);
  while (Clock::now() < until) {
    if (a.mode == "random") random_frames(peer);
    else if (a.mode == "mutated") mutated_frames(peer);
    else if (a.mode == "giant") giant_frames(peer);
    else if (a.mode == "flood") flood(peer);
    else if (works) replay(peer, name, incarnation);
    else return 2;
  }
  if (works) peer.say_message(WorkerMessage(Leaving{incarnation}));
  std::printf("{\"mode\":\"%s\",\"frames\":%lld,\"bytes\":%lld,\"not_taken\":%lld,"
              "\"answers\":%lld}\n",
              a.mode.c_str(), static_cast<long long>(peer.sent), static_cast<long long>(peer.bytes),
              static_cast<long long>(peer.stuck), static_cast<long long>(peer.answers));
  return 0;
}

}  // namespace
}  // namespace limpet::campaign

int main(int argc, char** argv) {
  if (argc != 5 && argc != 7) {
    std::fprintf(stderr,
                 "usage: hostile_peer random|mutated|giant|flood|replay|impostor ENDPOINT SECONDS"
                 " SEED [KEY SERVER_PUBLIC_KEY]\n");
    return 2;
  }
  limpet::campaign::Arguments a{argv[1], argv[2], "", "", std::atof(argv[3]),
                                std::strtoull(argv[4], nullptr, 10)};
  if (argc == 7) a.key = argv[5], a.server_public_key = argv[6];
  try {
    return limpet::campaign::run(a);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "hostile_peer: %s\n", e.what());
    return 1;
  }
}
