// Child processes of `limpet up`, each with its output in a log file of its own.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

namespace limpet::client {

class Process {
 public:
  Process(std::string name, std::vector<std::string> argv, std::string log);

  // Starts it in its own process group; its log grows. It gets SIGKILL should this program
  // die without stopping it. Throws std::system_error.
  void start();
  // Looks whether it still runs; after it has ended, how() says how.
  bool running();
  void signal(int number);

  const std::string& name() const { return name_; }
  const std::string& log() const { return log_; }
  std::string how() const;         // "exit status 1", "signal 9"
  std::string last_words() const;  // the last line of its log since its start, or nothing
  // The first line of its log since its start that has these words, or nothing.
  std::string line_with(const std::string& words) const;
  bool has_said(const std::string& words) const { return !line_with(words).empty(); }

 private:
  std::string name_, log_;
  std::vector<std::string> argv_;
  pid_t pid_ = -1;
  off_t log_begin_ = 0;  // of its latest start
  int status_ = 0;
};

// SIGTERM to all that run, in the reverse of their order, and SIGKILL to what is left after the
// grace. Returns once all are gone.
void stop_all(std::vector<Process>& processes, std::chrono::milliseconds grace);

}  // namespace limpet::client
