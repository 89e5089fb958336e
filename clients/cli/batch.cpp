// limpet batch: many requests from a file, their answers into another; re-running resumes.
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <stdexcept>

#include "clients/cli/batch_lines.h"
#include "clients/cli/commands.h"
#include "clients/cli/interrupt.h"
#include "clients/cli/line_ids.h"
#include "clients/cli/line_reader.h"
#include "clients/cli/open_client.h"
#include "clients/cli/print.h"
#include "clients/cli/progress.h"

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
bool read_answered(const std::string& path, LineIds& ids, std::string& error) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return true;
  uintmax_t whole = 0;
  for (std::string line; std::getline(in, line);) {
    const bool torn = in.eof();
    const AnsweredLine answer = torn ? AnsweredLine{} : answered(line);
    if (torn ? !begins_answer(line) : !line.empty() && answer.key.empty()) {
      error = path + " holds lines that are no batch answers; name another output file";
      return false;
    }
    if (torn) break;
    whole += line.size() + 1;
    if (answer.key.empty()) continue;
    ids.mark(answer.key, LineIds::kAnswered);
    if (answer.failed) ids.mark(answer.key, LineIds::kFailed);
  }
  in.close();
  std::error_code failed;
  if (std::filesystem::file_size(path, failed) > whole && !failed) {
    std::filesystem::resize_file(path, whole, failed);
  }
  if (failed) error = path + ": " + failed.message();
  return !failed;
}

class Batch {
 public:
  Batch(const BatchOptions& options, std::unique_ptr<Client> client, LineIds& ids)
      : options_(options),
        ids_(ids),
        in_(options.in, kLongestBatchLine),
        out_(options.out, std::ios::binary | std::ios::app),
        client_(std::move(client)) {}

  int run() {
    if (!out_) return fail("cannot write " + options_.out);
    for (std::string line; going() && in_.next(line);) {
      take_line(line);
      show();
      while (under_way() >= static_cast<size_t>(options_.concurrency) && going()) take_ended();
    }
    while (under_way() > 0 && going()) take_ended();
    show(true);
    if (!out_) {
      return fail("cannot write " + options_.out +
                  " (is the disk full?): make room and run the same command again to go on");
    }
    if (!going()) {
      return fail((lost_.empty() ? "interrupted" : lost_) + "; " + std::to_string(under_way()) +
                  " requests are open: run the same command again to go on");
    }
    if (figures_.failed == 0) return 0;
    return fail(std::to_string(figures_.failed) + " requests failed; " + options_.out +
                " says why");
  }

 private:
  struct Open {
    BatchAnswer answer;
    std::string session;
    std::optional<Job> job;
  };
  // A session's turns run in the order in which the broker accepts them, so the next is sent when
  // the one before has been accepted.
  struct Lane {
    std::string unaccepted;  // the job
    std::deque<BatchLine> held;
  };

  bool going() const { return interrupts() == 0 && lost_.empty() && out_; }
  size_t under_way() const { return open_.size() + held_; }

  void show(bool last = false) {
    figures_.position = in_.position();
    figures_.size = in_.size();
    progress_.show(figures_, last);
  }

  void take_line(const std::string& line) {
    BatchLine request;
    const bool named = !in_.too_long() && parse_batch_line(line, options_.max_tokens, request);
    std::string key = named ? key_of_id(request.custom_id) : key_of_line(in_.number());
    if (in_.too_long()) request.error = "the line has more than 16 MiB";
    uint8_t known = ids_.mark(key, LineIds::kSeen);
    const bool twice = (known & LineIds::kSeen) != 0;
    if (twice) {  // its answer cannot bear the custom_id, whose answer is another's
      key = key_of_line(in_.number());
      known = ids_.mark(key, LineIds::kSeen);
      request.error = "custom_id \"" + request.custom_id + "\" was there before";
    }
    if ((known & LineIds::kAnswered) != 0) return skip((known & LineIds::kFailed) != 0);
    if (!named || twice) {
      BatchAnswer answer{.custom_id = "", .job_id = "line-" + std::to_string(in_.number()),
                         .model = "", .text = "", .line = in_.number()};
      write(batch_error(answer, "invalid", request.error), true);
    } else if (!request.error.empty()) {
      write(batch_error(answer_to(request), "invalid", request.error), true);
    } else {
      take_request(std::move(request));
    }
  }

  // An earlier run has answered it, which says nothing of this run's speed.
  void skip(bool failed) {
    ++figures_.answered;
    figures_.failed += failed ? 1 : 0;
    skipped_ = in_.position();
    figures_.now_position = 0;
  }

  static BatchAnswer answer_to(const BatchLine& request) {
    return {.custom_id = request.custom_id, .job_id = request.spec.job_id, .model = request.model,
            .text = "", .chat = request.chat};
  }

  void take_request(BatchLine request) {
    if (!request.spec.session.empty()) {
      Lane& lane = lanes_[request.spec.session];
      if (!lane.unaccepted.empty()) {
        lane.held.push_back(std::move(request));
        ++held_;
        return;
      }
      lane.unaccepted = request.spec.job_id;
    }
    start(std::move(request));
  }

  void start(BatchLine request) {
    const std::string id = request.spec.job_id;
    Open& open = open_[id];
    open.answer = answer_to(request);
    open.session = request.spec.session;
    open.job = client_->submit(std::move(request.spec), [this, id](const Event& event) {
      std::lock_guard lock(mutex_);
      arrived_.emplace_back(id, event);
      changed_.notify_one();
    });
  }

  // The job was accepted, or has ended: the session's next may go.
  void release(const std::string& session, const std::string& job_id) {
    const auto it = lanes_.find(session);
    if (it == lanes_.end() || it->second.unaccepted != job_id) return;
    if (it->second.held.empty()) {
      lanes_.erase(it);
      return;
    }
    BatchLine next = std::move(it->second.held.front());
    it->second.held.pop_front();
    --held_;
    it->second.unaccepted = next.spec.job_id;
    start(std::move(next));
  }

  // Waits a little for events, and writes the answers of jobs that have ended.
  void take_ended() {
    std::deque<std::pair<std::string, Event>> arrived;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kLook, [this] { return !arrived_.empty(); });
      arrived.swap(arrived_);
    }
    for (auto& [id, event] : arrived) take_event(id, event);
    show();
  }

  void take_event(const std::string& id, const Event& event) {
    const auto it = open_.find(id);
    if (it == open_.end()) return;
    const std::string session = it->second.session;
    if (auto* tokens = std::get_if<Tokens>(&event)) it->second.answer.text += tokens->text;
    if (!is_last(event)) {
      if (std::holds_alternative<Accepted>(event)) release(session, id);
      return;
    }
    if (const auto* lost = std::get_if<Lost>(&event); lost != nullptr && !lost->contradiction) {
      lost_ = lost->message;  // the request is not answered: it stays open
    } else if (worth_another_try(event)) {  // nor is it by a broker that cannot take it now
      lost_ = failure_of(event);
    } else {
      write(batch_response(it->second.answer, event), !failure_of(event).empty());
      open_.erase(it);
      if (going()) release(session, id);
    }
  }

  void write(const std::string& line, bool failed) {
    if (!(out_ << line << '\n' << std::flush)) return;
    ++figures_.answered;
    ++figures_.now_answered;
    figures_.failed += failed ? 1 : 0;
    figures_.now_position = in_.position() - skipped_;
  }

  const BatchOptions& options_;
  LineIds& ids_;
  LineReader in_;
  Progress progress_;
  ProgressFigures figures_;
  uint64_t skipped_ = 0;  // bytes of the input up to the last line that was answered before
  std::ofstream out_;
  std::map<std::string, Open> open_;
  std::map<std::string, Lane> lanes_;
  size_t held_ = 0;  // requests in all lanes
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<std::string, Event>> arrived_;
  std::string lost_;                // why the broker's answers ceased
  std::unique_ptr<Client> client_;  // last: its thread calls back into the rest
};

}  // namespace

int batch(const BatchOptions& options) try {
  if (options.max_tokens < 1) return misused("--max-tokens must be at least 1");
  if (!LineReader(options.in, kLongestBatchLine).is_open()) {
    return fail("cannot read " + options.in);
  }
  std::string error;
  if (!check_output(options, error)) return fail(error);
  LineIds ids(std::filesystem::path(options.out).parent_path().string());
  if (!read_answered(options.out, ids, error)) return fail(error);
  auto client = open_client(options.broker);
  if (client == nullptr) return 1;
  catch_interrupts();
  return Batch(options, std::move(client), ids).run();
} catch (const std::runtime_error& e) {  // no room for what must be remembered
  return fail(e.what());
}

}  // namespace limpet::client
