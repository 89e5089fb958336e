#include "clients/cli/processes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <system_error>
#include <thread>

namespace limpet::client {
namespace {

constexpr std::chrono::milliseconds kLook{20};
constexpr int kNoSuchProgram = 127;

// In the child between fork and exec: only what is safe there.
[[noreturn]] void become(char* const* argv, int log, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kNoSuchProgram);
  const int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, STDIN_FILENO);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execv(argv[0], argv);
  _exit(kNoSuchProgram);
}

}  // namespace

Process::Process(std::string name, std::vector<std::string> argv, std::string log)
    : name_(std::move(name)), log_(std::move(log)), argv_(std::move(argv)) {}

void Process::start() {
  const int log = open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) throw std::system_error(errno, std::generic_category(), "cannot write " + log_);
  log_begin_ = lseek(log, 0, SEEK_END);
  std::vector<char*> argv;
  for (std::string& a : argv_) argv.push_back(a.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) become(argv.data(), log, parent);
  close(log);
  if (pid < 0) throw std::system_error(errno, std::generic_category(), "cannot start " + name_);
  pid_ = pid;
}

bool Process::running() {
  if (pid_ <= 0) return false;
  if (waitpid(pid_, &status_, WNOHANG) != pid_) return true;
  pid_ = -1;
  return false;
}

void Process::signal(int number) {
  if (pid_ > 0) kill(pid_, number);
}

std::string Process::how() const {
  if (WIFSIGNALED(status_)) return "signal " + std::to_string(WTERMSIG(status_));
  const int code = WEXITSTATUS(status_);
  return code == kNoSuchProgram ? argv_[0] + " cannot be run"
                                : "exit status " + std::to_string(code);
}

std::string Process::line_with(const std::string& words) const {
  std::ifstream in(log_);
  in.seekg(log_begin_);
  for (std::string line; std::getline(in, line);) {
    if (line.find(words) != std::string::npos) return line;
  }
  return {};
}

std::string Process::last_words() const {
  std::ifstream in(log_);
  in.seekg(log_begin_);
  std::string last;
  for (std::string line; std::getline(in, line);) {
    if (line.find_first_not_of(" \t\r") != std::string::npos) last = line;
  }
  return last;
}

void stop_all(std::vector<Process>& processes, std::chrono::milliseconds grace) {
  const auto wait_all = [&](std::chrono::milliseconds limit) {
    const auto end = std::chrono::steady_clock::now() + limit;
    for (;;) {
      bool any = false;
      for (Process& p : processes) any = p.running() || any;
      if (!any || std::chrono::steady_clock::now() >= end) return !any;
      std::this_thread::sleep_for(kLook);
    }
  };
  for (auto p = processes.rbegin(); p != processes.rend(); ++p) p->signal(SIGTERM);
  if (wait_all(grace)) return;
  for (Process& p : processes) p.signal(SIGKILL);
  wait_all(grace);
}

}  // namespace limpet::client
