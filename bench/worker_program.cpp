#include "bench/worker_program.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <stdexcept>

namespace limpet::bench {

WorkerProgram::WorkerProgram(const std::string& name, const std::string& model,
                             const std::string& dtype, const std::string& broker,
                             const std::vector<std::string>& flags, int64_t threads) {
  const std::string program =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "limpet-worker";
  std::vector<std::string> argv = {program, "--broker", broker, "--model", model, "--dtype",
                                   dtype, "--threads", std::to_string(threads), "--http", "",
                                   "--name", name, "--log-level", "warn"};
  argv.insert(argv.end(), flags.begin(), flags.end());
  pid_ = fork();
  if (pid_ != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<char*> raw;
  for (std::string& a : argv) raw.push_back(a.data());
  raw.push_back(nullptr);
  execv(raw[0], raw.data());
  _exit(127);
}

WorkerProgram::~WorkerProgram() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void WorkerProgram::signal(int number) { kill(pid_, number); }

void wait_for_workers(client::Client& client, size_t wanted) {
  for (int i = 0; i < 600; ++i) {
    const auto answer = client.list(Listing::workers, 10, std::chrono::milliseconds(5000));
    if (answer.listed.workers.size() >= wanted) return;
    usleep(100'000);
  }
  throw std::runtime_error("the workers do not come up");
}

}  // namespace limpet::bench
