// limpet batch: many chat requests from a file, their answers into another; re-running resumes.
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <unordered_set>

#include "clients/cli/batch_lines.h"
#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/open_client.h"
#include "clients/cli/print.h"

namespace limpet::client {
namespace {

constexpr Millis kLook{100};

// OUT is appended to, and its torn last line cut off: it must be a file, and not the requests'.
bool check_output(const BatchOptions& options, std::string& error) {
  namespace fs = std::filesystem;
  std::error_code failed;
  if (!fs::exists(options.out, failed)) return true;
  if (!fs::is_regular_file(options.out, failed)) {
    error = options.out + " is no file; name another output file";
  } else if (fs::equivalent(options.in, options.out, failed)) {
    error = options.out + " is the file of the requests; name another output file";
  }
  return error.empty();
}

// Reads what OUT has; a line that a crash has cut off is removed. False with `error` set.
bool read_answered(const std::string& path, std::unordered_set<std::string>& answered,
                   std::string& error) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return true;
  uintmax_t whole = 0;
  for (std::string line; std::getline(in, line);) {
    const bool torn = in.eof();
    const std::string id = torn ? "" : answered_id(line);
    if (torn ? !begins_answer(line) : !line.empty() && id.empty()) {
      error = path + " holds lines that are no batch answers; name another output file";
      return false;
    }
    if (torn) break;
    whole += line.size() + 1;
    if (!id.empty()) answered.insert(id);
  }
  in.close();
  std::error_code failed;
  if (std::filesystem::file_size(path, failed) > whole && !failed) {
    std::filesystem::resize_file(path, whole, failed);
  }
  if (failed) error = path + ": " + failed.message();
  return !failed;
}

// Looks at every request before any is sent: ids there and different.
bool check_requests(const BatchOptions& options, size_t& count, std::string& error) {
  std::ifstream in(options.in, std::ios::binary);
  if (!in) {
    error = "cannot read " + options.in;
    return false;
  }
  std::unordered_set<std::string> ids;
  size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    BatchLine request;
    if (!parse_batch_line(line, options.max_tokens, request)) {
      error = options.in + " line " + std::to_string(number) + " " + request.error;
      return false;
    }
    if (!ids.insert(request.custom_id).second) {
      error = options.in + " line " + std::to_string(number) + ": custom_id \"" +
              request.custom_id + "\" is there twice";
      return false;
    }
  }
  count = ids.size();
  return true;
}

class Progress {
 public:
  explicit Progress(size_t total) : total_(total), shown_(isatty(STDERR_FILENO) == 1) {}
  ~Progress() {
    if (shown_) std::fprintf(stderr, "\n");
  }
  void show(size_t done, size_t failed) {
    const auto now = std::chrono::steady_clock::now();
    if (!shown_ || (done < total_ && now - last_ < kLook)) return;
    last_ = now;
    constexpr size_t kWidth = 30;
    const size_t filled = total_ == 0 ? kWidth : done * kWidth / total_;
    const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '.');
    const double seconds = std::chrono::duration<double>(now - began_).count();
    std::fprintf(stderr, "\r[%s] %zu/%zu  %.1f/s  %zu failed ", bar.c_str(), done, total_,
                 seconds > 0 ? static_cast<double>(done - skipped_) / seconds : 0.0, failed);
  }
  void skip(size_t n) { skipped_ = n; }

 private:
  size_t total_, skipped_ = 0;
  bool shown_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now(), last_{};
};

class Batch {
 public:
  Batch(const BatchOptions& options, std::unique_ptr<Client> client,
        std::unordered_set<std::string> answered, size_t total)
      : options_(options),
        answered_(std::move(answered)),
        progress_(total),
        out_(options.out, std::ios::binary | std::ios::app),
        client_(std::move(client)) {}

  int run() {
    if (!out_) return fail("cannot write " + options_.out);
    std::ifstream in(options_.in, std::ios::binary);
    for (std::string line; going() && std::getline(in, line);) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      BatchLine request;
      if (!parse_batch_line(line, options_.max_tokens, request)) continue;
      if (answered_.contains(request.custom_id)) {
        progress_.skip(++done_);
        continue;
      }
      start(std::move(request));
      while (open_.size() >= static_cast<size_t>(options_.concurrency) && going()) {
        take_ended();
      }
    }
    while (!open_.empty() && going()) take_ended();
    if (!out_) {
      return fail("cannot write " + options_.out +
                  " (is the disk full?): make room and run the same command again to go on");
    }
    if (!going()) {
      return fail((lost_.empty() ? "interrupted" : lost_) + "; " + std::to_string(open_.size()) +
                  " requests are open: run the same command again to go on");
    }
    if (failed_ == 0) return 0;
    return fail(std::to_string(failed_) + " requests failed; " + options_.out + " says why");
  }

 private:
  bool going() const { return interrupts() == 0 && lost_.empty() && out_; }

  struct Open {
    BatchAnswer answer;
    std::optional<Job> job;
  };

  void start(BatchLine request) {
    BatchAnswer answer{request.custom_id, request.spec.job_id, request.model, ""};
    if (!request.error.empty()) {
      write(batch_error(answer, "invalid", request.error), true);
      return;
    }
    const std::string id = request.spec.job_id;
    Open& open = open_[id];
    open.answer = std::move(answer);
    open.job = client_->submit(std::move(request.spec), [this, id](const Event& event) {
      std::lock_guard lock(mutex_);
      arrived_.emplace_back(id, event);
      changed_.notify_one();
    });
  }

  // Waits a little for events, and writes the answers of jobs that have ended.
  void take_ended() {
    std::deque<std::pair<std::string, Event>> arrived;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kLook, [this] { return !arrived_.empty(); });
      arrived.swap(arrived_);
    }
    for (auto& [id, event] : arrived) {
      auto it = open_.find(id);
      if (it == open_.end()) continue;
      if (auto* tokens = std::get_if<Tokens>(&event)) it->second.answer.text += tokens->text;
      if (!is_last(event)) continue;
      if (const auto* lost = std::get_if<Lost>(&event); lost != nullptr && !lost->contradiction) {
        lost_ = lost->message;  // the request is not answered: it stays open
        continue;
      }
      if (worth_another_try(event)) {  // nor is it by a broker that cannot take it now
        lost_ = failure_of(event);
        continue;
      }
      write(batch_response(it->second.answer, event), !failure_of(event).empty());
      open_.erase(it);
    }
    progress_.show(done_, failed_);
  }

  void write(const std::string& line, bool failed) {
    if (!(out_ << line << '\n' << std::flush)) return;
    ++done_;
    failed_ += failed ? 1 : 0;
  }

  const BatchOptions& options_;
  std::unordered_set<std::string> answered_;
  Progress progress_;
  std::ofstream out_;
  std::map<std::string, Open> open_;
  size_t done_ = 0, failed_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<std::string, Event>> arrived_;
  std::string lost_;                // why the broker's answers ceased
  std::unique_ptr<Client> client_;  // last: its thread calls back into the rest
};

}  // namespace

int batch(const BatchOptions& options) {
  if (options.max_tokens < 1) return misused("--max-tokens must be at least 1");
  std::string error;
  size_t total = 0;
  std::unordered_set<std::string> answered;
  if (!check_requests(options, total, error) || !check_output(options, error) ||
      !read_answered(options.out, answered, error)) {
    return fail(error);
  }
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  catch_interrupts();
  return Batch(options, std::move(client), std::move(answered), total).run();
}

}  // namespace limpet::client
