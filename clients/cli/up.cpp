// limpet up: a broker and its workers on this machine, until Ctrl-C, SIGTERM or SIGHUP.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <set>
#include <system_error>
#include <thread>

#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/print.h"
#include "clients/cli/processes.h"
#include "clients/cpp/client.h"

namespace limpet::client {
namespace {

constexpr Millis kLook{50};
constexpr Millis kAnswer{500};
constexpr Millis kGrace{10000};
constexpr Millis kRestartPause{500};
constexpr const char* kRefused = "event=refused ";  // a worker's, with the broker's reason
constexpr const char* kSlow = "event=slow_device ";  // what its device does without
constexpr const char* kShutOut = "event=handshake_refused ";  // its keys, or their absence
constexpr const char* kBound = "event=http ";  // the broker logs it once all its ports are its own

std::string loopback(int port) { return "127.0.0.1:" + std::to_string(port); }

// The folder as an absolute path, made if it is missing. Throws with what to do.
std::string data_folder(const std::string& path) {
  std::error_code failed;
  const auto folder = std::filesystem::absolute(path, failed);
  if (!failed) std::filesystem::create_directories(folder, failed);
  if (failed || access(folder.c_str(), W_OK) != 0) {
    throw std::runtime_error("cannot write to " + folder.string() + " (" +
                             (failed ? failed.message() : "no permission") +
                             "); name another folder with --data");
  }
  return folder.string();
}

std::string model_folder(const std::string& path) {
  if (path.empty()) throw std::runtime_error("the embedded model is not found; name one: --model");
  const auto folder = std::filesystem::absolute(path);
  for (const char* file : {"config.json", "tokenizer.json"}) {
    if (!std::filesystem::is_regular_file(folder / file)) {
      throw std::runtime_error(folder.string() + " is no model folder: it has no " + file);
    }
  }
  return folder.string();
}

std::string program(const std::string& bin, const char* name) {
  const std::string path = bin + "/" + name;
  if (access(path.c_str(), X_OK) != 0) {
    throw std::runtime_error("cannot find " + path + "; build it beside limpet");
  }
  return path;
}

class Up {
 public:
  explicit Up(const UpOptions& o) : restart_(o.restart), workers_(static_cast<size_t>(o.workers)) {
    const std::string model = model_folder(o.model), data = data_folder(o.data);
    const std::string broker = program(o.bin, "limpet-broker");
    const std::string worker = program(o.bin, "limpet-worker");
    frontend_ = "tcp://" + loopback(o.port);
    backend_ = "tcp://" + loopback(o.port + 1);
    http_ = o.http.empty() ? loopback(o.port + 2) : o.http;
    processes_.emplace_back("limpet-broker",
                            std::vector<std::string>{broker, "--frontend", frontend_, "--backend",
                                                     backend_, "--http", http_, "--data", data},
                            data + "/broker.log");
    for (int i = 1; i <= o.workers; ++i) {
      const std::string name = "worker-" + std::to_string(i);
      std::vector<std::string> argv = {worker,
                                       "--broker",
                                       backend_,
                                       "--model",
                                       model,
                                       "--name",
                                       name,
                                       "--device",
                                       o.device,
                                       "--http",
                                       loopback(o.port + 2 + i)};
      // The next start finds what was found; else each start would time it anew.
      const bool named = std::ranges::any_of(o.worker_args, [](const std::string& arg) {
        return arg.starts_with("--kernel-choices");
      });
      if (!named && !o.device.starts_with("cpu")) {
        argv.push_back("--kernel-choices");
        argv.push_back(data + "/kernel_choices");
      }
      argv.insert(argv.end(), o.worker_args.begin(), o.worker_args.end());
      processes_.emplace_back(name, std::move(argv), data + "/" + name + ".log");
    }
    data_ = data;
  }

  int run() {
    try {
      processes_.front().start();
      if (wait_bound()) {
        for (auto p = processes_.begin() + 1; p != processes_.end(); ++p) p->start();
        if (wait_ready()) watch();
      }
    } catch (const std::exception& e) {
      failure_ = e.what();
    }
    stop_workers();
    stop_all(processes_, kGrace);
    return failure_.empty() ? 0 : fail(failure_);
  }

 private:
  // Before the broker, which tells them when nothing is left to be handed over.
  void stop_workers() {
    for (auto p = processes_.begin() + 1; p != processes_.end(); ++p) p->signal(SIGTERM);
    const auto any = [&] {
      bool running = false;
      for (auto p = processes_.begin() + 1; p != processes_.end(); ++p) {
        running = p->running() || running;
      }
      return running;
    };
    const auto end = std::chrono::steady_clock::now() + kGrace;
    while (processes_.front().running() && any() && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(kLook);
    }
  }

  // True when the broker that was started here listens: another one on the same ports would
  // answer as well, and take the workers.
  bool wait_bound() {
    Process& broker = processes_.front();
    while (interrupts() == 0) {
      if (broker.has_said(kBound)) return true;
      if (!broker.running()) {
        failure_ = died(broker);
        return false;
      }
      std::this_thread::sleep_for(kLook);
    }
    return false;
  }

  // True when every worker has registered with the broker.
  bool wait_ready() {
    Options options;
    options.endpoint = frontend_;
    Client client(options);
    while (interrupts() == 0) {
      if (!all_running()) return false;
      if (!client.wait_connected(kLook)) continue;
      const auto answer = client.list(limpet::Listing::workers, kMaxListed, kAnswer);
      const auto ready = [](const WorkerInfo& w) { return w.state == "ready"; };
      const auto& listed = answer.listed.workers;
      if (std::count_if(listed.begin(), listed.end(), ready) >= std::ssize(processes_) - 1) {
        std::printf("limpet is up: %zu worker%s\n", workers_, workers_ == 1 ? "" : "s");
        std::printf("  clients   %s   (limpet chat --broker %s)\n", frontend_.c_str(),
                    frontend_.c_str());
        std::printf("  workers   %s\n  metrics   http://%s/metrics\n", backend_.c_str(),
                    http_.c_str());
        std::printf("  logs      %s/*.log\nCtrl-C stops it.\n", data_.c_str());
        std::fflush(stdout);
        tell_slow();
        return true;
      }
      std::this_thread::sleep_for(kLook);
    }
    return false;
  }

  void tell_slow() const {
    for (const Process& p : processes_) {
      const std::string line = p.line_with(kSlow);
      if (line.empty()) continue;
      std::fprintf(stderr, "limpet: %s is slower than it could be: %s\n", p.name().c_str(),
                   reason_of(line).c_str());
    }
  }

  // Before all is ready the first death is the end, whatever --restart says; and so is a worker
  // that the broker does not take: it would ask again for ever.
  bool all_running() {
    for (Process& p : processes_) {
      if (!p.running()) {
        failure_ = died(p);
        return false;
      }
      for (const char* words : {kRefused, kShutOut}) {
        const std::string line = p.line_with(words);
        if (line.empty() || &p == &processes_.front()) continue;
        failure_ = "the broker refuses " + p.name() + ": " + reason_of(line);
        return false;
      }
    }
    return true;
  }

  // What a log line's why="…" says; the line where it has none.
  static std::string reason_of(const std::string& line) {
    const size_t at = line.find("why=\"");
    if (at == std::string::npos) return line;
    const size_t from = at + 5;
    return line.substr(from, line.rfind('"') - from);
  }

  // The broker, and at least one worker, must live; a worker's death is told.
  void watch() {
    while (interrupts() == 0 && failure_.empty()) {
      for (Process& p : processes_) {
        if (p.running() || gone_.contains(p.name())) continue;
        if (restart_) {
          std::fprintf(stderr, "limpet: %s; starting it again\n", died(p).c_str());
          std::this_thread::sleep_for(kRestartPause);
          p.start();
          continue;
        }
        gone_.insert(p.name());
        if (&p == &processes_.front() || gone_.size() == workers_) {
          failure_ = died(p) + "; all is stopped (--restart would start it again)";
          break;
        }
        std::fprintf(stderr, "limpet: %s; its sessions go on elsewhere\n", died(p).c_str());
      }
      std::this_thread::sleep_for(kLook);
    }
  }

  static std::string died(const Process& p) {
    const std::string words = p.last_words();
    return p.name() + " ended (" + p.how() + ")" + (words.empty() ? "" : ": " + words);
  }

  static constexpr uint32_t kMaxListed = 10000;
  bool restart_;
  size_t workers_;
  std::string data_, frontend_, backend_, http_, failure_;
  std::vector<Process> processes_;
  std::set<std::string> gone_;
};

}  // namespace

int up(const UpOptions& options) {
  catch_interrupts();
  catch_hangup();  // else workers would be killed with it, and what they hold lost
  try {
    return Up(options).run();
  } catch (const std::exception& e) {
    return fail(e.what());
  }
}

}  // namespace limpet::client
