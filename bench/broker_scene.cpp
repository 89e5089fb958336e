#include "bench/broker_scene.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "schema/wire.h"

namespace limpet::bench {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kHeartbeatNs = 250'000'000;
constexpr int kPatienceMs = 20000;
constexpr int64_t kManyTokens = int64_t{1} << 40;

int64_t status_kib(int pid, const std::string& field) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field + ":")) return std::stoll(line.substr(field.size() + 1));
  }
  return 0;
}

}  // namespace

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string job_name(int64_t i) {
  const auto mixed = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15ull;
  char text[32];
  std::snprintf(text, sizeof(text), "job-%016llx", static_cast<unsigned long long>(mixed));
  return text;
}

// ---- BrokerProcess -----------------------------------------------------------------------------

BrokerProcess::BrokerProcess(const std::vector<std::string>& extra_flags, bool with_keys) {
  folder_ = (fs::temp_directory_path() / "limpet-bench-XXXXXX").string();
  if (mkdtemp(folder_.data()) == nullptr) throw std::runtime_error("cannot make a folder");
  const std::string program = fs::read_symlink("/proc/self/exe").parent_path() / "limpet-broker";
  argv_ = {program, "--frontend", frontend(), "--backend", backend(), "--data", folder_ + "/data",
           "--http", "", "--log-level", "warn"};
  argv_.insert(argv_.end(), extra_flags.begin(), extra_flags.end());
  if (with_keys) {
    const keys::KeyPair server = keys::draw();
    client_ = {keys::draw(), server.public_key};
    worker_ = {keys::draw(), server.public_key};
    keys::write(folder_ + "/server", server);
    std::ofstream(folder_ + "/keys") << "client bench " << client_.own.public_key << "\nworker "
                                     << worker_.own.public_key << "\n";
    for (const char* a : {"--server-key", "/server", "--keys", "/keys"}) {
      argv_.push_back(a[0] == '/' ? folder_ + a : a);
    }
  }
  start();
}

std::string BrokerProcess::let_in(const std::string& who) {
  const std::string file = folder_ + "/let-in-" + std::to_string(++let_in_);
  const keys::KeyPair pair = keys::draw();
  keys::write(file, pair);
  std::ifstream before(folder_ + "/keys");
  std::ofstream(folder_ + "/keys.new")
      << before.rdbuf() << who << " " << pair.public_key << "\n";
  fs::rename(folder_ + "/keys.new", folder_ + "/keys");
  return file;
}

void BrokerProcess::start() {
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::vector<char*> raw_argv;
    for (std::string& a : argv_) raw_argv.push_back(a.data());
    raw_argv.push_back(nullptr);
    execv(raw_argv[0], raw_argv.data());
    std::perror(raw_argv[0]);
    _exit(127);
  }
}

void BrokerProcess::kill_and_restart() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    wait_for_exit();
  }
  start();
}

int BrokerProcess::wait_for_exit() {
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

BrokerProcess::~BrokerProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    wait_for_exit();
  }
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

double BrokerProcess::cpu_seconds() const {
  std::ifstream in("/proc/" + std::to_string(pid_) + "/stat");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

int64_t BrokerProcess::resident_bytes() const { return status_kib(pid_, "VmRSS") * 1024; }
int64_t BrokerProcess::peak_resident_bytes() const { return status_kib(pid_, "VmHWM") * 1024; }

int64_t BrokerProcess::stored_bytes() const {
  int64_t sum = 0;
  for (const auto& entry : fs::directory_iterator(folder_ + "/data")) {
    sum += static_cast<int64_t>(entry.file_size());
  }
  return sum;
}

// ---- Link --------------------------------------------------------------------------------------

Link::Link(const std::string& endpoint, const keys::Identity& identity) {
  context_ = zmq_ctx_new();
  socket_ = zmq_socket(context_, ZMQ_DEALER);
  const int linger = 0;
  zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof(linger));
  keys::use(socket_, identity);
  if (zmq_connect(socket_, endpoint.c_str()) != 0) throw std::runtime_error("cannot connect");
}

Link::~Link() {
  zmq_close(socket_);
  zmq_ctx_term(context_);
}

void Link::send(const std::string& frame) { zmq_send(socket_, frame.data(), frame.size(), 0); }

bool Link::wait(int milliseconds) {
  zmq_pollitem_t item{socket_, 0, ZMQ_POLLIN, 0};
  return zmq_poll(&item, 1, milliseconds) > 0;
}

bool Link::receive(std::string& frame) {
  zmq_msg_t message;
  zmq_msg_init(&message);
  const bool got = zmq_msg_recv(&message, socket_, ZMQ_DONTWAIT) >= 0;
  if (got) frame.assign(static_cast<char*>(zmq_msg_data(&message)), zmq_msg_size(&message));
  zmq_msg_close(&message);
  return got;
}

// ---- WorkerDouble ------------------------------------------------------------------------------

WorkerDouble::WorkerDouble(const std::string& endpoint, Options options,
                           const keys::Identity& identity)
    : link_(endpoint, identity), options_(options), thread_([this] { run(); }) {}

WorkerDouble::~WorkerDouble() {
  stop_ = true;
  thread_.join();
}

void WorkerDouble::send_out() {
  if (out_.empty()) return;
  for (const auto& frame : wire::encode_frames(std::span<const WorkerMessage>(out_))) {
    link_.send(frame);
  }
  out_.clear();
}

void WorkerDouble::heartbeat(bool at_once) {
  const int64_t now = now_ns();
  if (!at_once && now < heartbeat_at_) return;
  heartbeat_at_ = now + kHeartbeatNs;
  Room room{holding_ ? 0 : options_.slots - static_cast<int32_t>(running_.size()), kManyTokens,
            kManyTokens};
  if (!registered_) {
    Register r;
    r.worker = "double";
    r.incarnation = 1;
    r.device = r.model = "none";
    r.max_context = 1 << 20;
    r.room = room;
    out_.push_back(std::move(r));
  } else {
    Heartbeat h{1, ++sequence_, room, {}};
    for (const Running& j : running_) h.jobs.push_back({j.job, j.attempt, j.made, true, false});
    out_.push_back(std::move(h));
  }
  send_out();
}

void WorkerDouble::begin(const Dispatch& d) {
  JobStarted started{d.job, d.attempt, {}, d.home_reason, d.base_tokens, 4, {}};
  if (d.prompt_tokens < 0) started.prompt = {1, 2, 3, 4};
  out_.push_back(std::move(started));
  running_.push_back({d.job, d.attempt, d.output_tokens});
}

void WorkerDouble::receive(int wait_ms) {
  std::string frame;
  std::vector<BrokerToWorker> in;
  link_.wait(wait_ms);
  while (link_.receive(frame)) wire::decode(std::as_bytes(std::span(frame)), in);
  for (const auto& message : in) {
    if (const auto* d = std::get_if<Dispatch>(&message)) begin(*d);
    if (std::holds_alternative<Registered>(message)) registered_ = true;
    if (std::holds_alternative<WhoAreYou>(message)) registered_ = false;
  }
}

void WorkerDouble::step() {
  StepTokens tokens;
  tokens.rows.reserve(running_.size());
  for (Running& j : running_) {
    if (options_.sent_ns) (*options_.sent_ns)[static_cast<size_t>(j.made)] = now_ns();
    tokens.rows.push_back({j.job, j.attempt, j.made, {static_cast<Token>(j.made)}, " word", {}});
    ++j.made;
  }
  out_.push_back(std::move(tokens));
  std::erase_if(running_, [&](const Running& j) {
    if (j.made < options_.tokens) return false;
    out_.push_back(JobEnded{j.job, j.attempt, true, FinishReason::length, j.made, "",
                            ErrorCode::none, "", false});
    return true;
  });
}

void WorkerDouble::run() {
  const bool paced = options_.steps_per_second > 0;
  const bool batch = !paced && options_.tokens <= 64;  // short jobs: all their steps at once
  while (!stop_) {
    const bool ready = static_cast<int64_t>(running_.size()) >= options_.start_when;
    if (ready) options_.start_when = 1;
    int wait_ms = 1;
    if (ready && !paced) wait_ms = 0;
    receive(wait_ms);
    if (running_.empty() || !ready) {
      next_step_at_ = now_ns();
    } else if (batch) {
      while (!running_.empty()) step();
    } else if (!paced || now_ns() >= next_step_at_) {
      step();
      if (paced) next_step_at_ += static_cast<int64_t>(1e9 / options_.steps_per_second);
    }
    send_out();
    heartbeat(false);
  }
}

// ---- LoadClient --------------------------------------------------------------------------------

void LoadClient::submit(int64_t count, int64_t tokens, const std::function<Job(int64_t)>& next) {
  if (count <= 0) return;
  std::vector<ClientMessage> out;
  for (; count > 0; --count) {
    const Job job = next(submitted_++);
    auto spec = std::make_shared<JobSpec>();
    spec->job_id = job.id;
    spec->session = job.session;
    spec->messages = {{"user", "What comes next? Say it in a few words, as you did before."}};
    spec->max_tokens = static_cast<int32_t>(tokens);
    out.push_back(Submit{std::move(spec), true, 0});
  }
  for (const auto& frame : wire::encode_frames(std::span<const ClientMessage>(out))) {
    link_.send(frame);
  }
}

void LoadClient::check(const BrokerToClient& message) {
  if (std::holds_alternative<Accepted>(message)) {
    ++accepted_;
  } else if (const auto* t = std::get_if<Tokens>(&message)) {
    tokens_seen += static_cast<int64_t>(t->ids.size());
    if (t->ids.empty() || t->ids.front() != t->first_index) {
      throw std::runtime_error("a token is not what its worker made");
    }
    if (on_tokens) on_tokens(*t);
  } else if (const auto* f = std::get_if<Finished>(&message)) {
    ++finished_;
    if (f->usage.output_tokens != tokens_wanted_) throw std::runtime_error("a job is too short");
  } else if (const auto* r = std::get_if<Refused>(&message)) {
    throw std::runtime_error("refused: " + r->message);
  } else if (const auto* failed = std::get_if<Failed>(&message)) {
    throw std::runtime_error("a job failed: " + failed->message);
  }
}

void LoadClient::take() {
  if (!link_.wait(kPatienceMs)) throw std::runtime_error("the broker does not answer");
  in_.clear();
  while (link_.receive(frame_)) {
    const auto error = wire::decode(std::as_bytes(std::span(frame_)), in_);
    if (error.code != ErrorCode::none) throw std::runtime_error(error.message);
  }
  for (const auto& message : in_) check(message);
}

void LoadClient::run(int64_t jobs, int64_t window, int64_t tokens,
                     const std::function<Job(int64_t)>& next) {
  submitted_ = accepted_ = finished_ = tokens_seen = 0;
  tokens_wanted_ = tokens;
  while (finished_ < jobs) {
    submit(std::min(window - (submitted_ - finished_), jobs - submitted_), tokens, next);
    take();
  }
  if (tokens_seen != jobs * tokens) throw std::runtime_error("tokens are missing");
}

void LoadClient::enqueue(int64_t jobs, int64_t tokens, const std::function<Job(int64_t)>& next) {
  submitted_ = accepted_ = finished_ = 0;
  tokens_wanted_ = tokens;
  while (accepted_ < jobs) {
    submit(std::min<int64_t>(1000 - (submitted_ - accepted_), jobs - submitted_), tokens, next);
    take();
  }
}

}  // namespace limpet::bench
