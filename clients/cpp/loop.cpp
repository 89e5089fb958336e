#include "clients/cpp/loop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "schema/wire.h"

namespace limpet::client {
namespace {

Time now_() { return std::chrono::steady_clock::now(); }
constexpr Millis kLongestPoll{1000};

int make_wake_fd() {
  const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  return fd;
}

const std::string* job_of(const BrokerToClient& message) {
  return std::visit(
      [](const auto& m) -> const std::string* {
        if constexpr (requires { m.job_id; }) return &m.job_id;
        return nullptr;
      },
      message);
}

}  // namespace

Client::Loop::Loop(const Options& options)
    : options_(options),
      wake_fd_(make_wake_fd()),
      connection_(options.endpoint, keys::identify(options.key_file, options.server_public_key),
                  wake_fd_) {
  thread_ = std::thread([this] { run(); });
}

Client::Loop::~Loop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  post([] {});
  thread_.join();
  close(wake_fd_);
}

// ---- Any thread -----------------------------------------------------------------------------

bool Client::Loop::wait_connected(Millis timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return connected_; });
}

std::string Client::Loop::refused() const {
  std::lock_guard lock(mutex_);
  return connected_ ? "" : refused_;
}

std::string Client::Loop::unconnected() const {
  return "no broker answers at " + options_.endpoint + (refused_.empty() ? "" : ": " + refused_);
}

int Client::Loop::connections() const {
  std::lock_guard lock(mutex_);
  return connections_;
}

void Client::Loop::post(std::function<void()> command) {
  {
    std::lock_guard lock(mutex_);
    commands_.push_back(std::move(command));
  }
  const uint64_t one = 1;
  if (write(wake_fd_, &one, sizeof one) < 0) return;  // full: the thread is woken already
}

void Client::Loop::follow(std::shared_ptr<Job::State> job, JobSpec spec) {
  auto shared = std::make_shared<const JobSpec>(std::move(spec));
  post([this, job = std::move(job), shared] { open(job, shared, 0); });
}

void Client::Loop::follow(std::shared_ptr<Job::State> job, int64_t from_index) {
  post([this, job = std::move(job), from_index] { open(job, nullptr, from_index); });
}

void Client::Loop::cancel(const std::shared_ptr<Job::State>& job) {
  post([this, job] {
    auto it = jobs_.find(job->id);
    if (it == jobs_.end() || it->second.job != job) return;
    it->second.stream.cancel();
    ask(it->second, now_());
  });
}

void Client::Loop::forget(const std::shared_ptr<Job::State>& job) {
  post([this, job] {
    auto it = jobs_.find(job->id);
    if (it == jobs_.end() || it->second.job != job) return;
    out_.emplace_back(Detach{job->id});
    jobs_.erase(it);
  });
}

Client::Listing Client::Loop::list(const List& what, Millis timeout) {
  const auto answer = request(what, timeout);
  return {answer->error, std::move(answer->listed)};
}

Client::Releasing Client::Loop::release(const Release& what, Millis timeout) {
  const auto answer = request(what, timeout);
  return {answer->error, std::move(answer->released)};
}

Client::Retrying Client::Loop::retry(const Retry& what, Millis timeout) {
  const auto answer = request(what, timeout);
  return {answer->error, std::move(answer->retried)};
}

Client::Draining Client::Loop::drain(const std::string& worker, uint64_t incarnation,
                                     Millis timeout) {
  const auto answer = request(Drain{worker, incarnation}, timeout);
  return {answer->error, std::move(answer->drained)};
}

// Answered, or with an error.
std::shared_ptr<Client::Loop::Request> Client::Loop::request(ClientMessage what, Millis timeout) {
  auto request = std::make_shared<Request>();
  request->what = std::move(what);
  post([this, request] {
    requests_.push_back(request);
    out_.emplace_back(request->what);
  });
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, timeout, [&] { return request->answered; })) {
    request->abandoned = true;
    auto nothing = std::make_shared<Request>();
    nothing->error = connected_ ? "the broker at " + options_.endpoint + " does not answer"
                                : unconnected();
    return nothing;
  }
  return request;
}

// ---- The thread -----------------------------------------------------------------------------

void Client::Loop::run() {
  for (;;) {
    run_commands();
    {
      std::lock_guard lock(mutex_);
      if (stop_) break;
    }
    ask_due(now_());
    connection_.send(out_);
    out_.clear();
    Connection::Arrived arrived = connection_.poll(until_next(now_()));
    uint64_t count = 0;
    while (read(wake_fd_, &count, sizeof count) > 0) {
    }
    const Time now = now_();
    if (!arrived.messages.empty()) waiting_since_.reset();
    on_connection(arrived, now);
    for (BrokerToClient& message : arrived.messages) on_message(std::move(message), now);
    if (!arrived.bad_frame.empty()) give_up_all("the broker's answer: " + arrived.bad_frame);
    look_at_patience(now);
  }
  give_up_all("the client is closed");
  connection_.send(out_);
}

void Client::Loop::run_commands() {
  std::vector<std::function<void()>> commands;
  {
    std::lock_guard lock(mutex_);
    commands.swap(commands_);
  }
  for (auto& command : commands) command();
}

void Client::Loop::open(std::shared_ptr<Job::State> job, std::shared_ptr<const JobSpec> spec,
                        int64_t from_index) {
  std::string wrong = spec != nullptr ? wire::check(*spec) : "";
  if (spec == nullptr && (job->id.empty() || job->id.size() > Limits::kName || from_index < 0)) {
    wrong = "an attachment needs a job id and an index from 0 on";
  }
  if (jobs_.contains(job->id)) wrong = "this client follows job " + job->id + " already";
  if (!wrong.empty()) {
    std::vector<Event> events = {Refused{job->id, ErrorCode::invalid, std::move(wrong), 0}};
    deliver(*job, events);
    return;
  }
  const std::string id = job->id;
  JobStream stream(id, std::move(spec), from_index, options_.ask_again);
  Followed& followed = jobs_.emplace(id, Followed{std::move(stream), std::move(job)}).first->second;
  ask(followed, now_());
}

void Client::Loop::on_connection(const Connection::Arrived& arrived, Time now) {
  if (!arrived.made && !arrived.broken && arrived.refused.empty()) return;
  {
    std::lock_guard lock(mutex_);
    if (!arrived.refused.empty()) refused_ = arrived.refused;
    if (arrived.made) refused_.clear();
    connected_ = connection_.connected();
    connections_ += arrived.made ? 1 : 0;
  }
  changed_.notify_all();
  if (arrived.broken) wait_from(now);
  if (connection_.connected()) ask_all(now);
}

void Client::Loop::on_message(BrokerToClient&& message, Time now) {
  if (auto* listed = std::get_if<Listed>(&message)) {
    return on_answer([&](Request& r) { r.listed = std::move(*listed); });
  }
  if (auto* drained = std::get_if<DrainStatus>(&message)) {
    return on_answer([&](Request& r) { r.drained = std::move(*drained); });
  }
  if (auto* released = std::get_if<Released>(&message)) {
    return on_answer([&](Request& r) { r.released = std::move(*released); });
  }
  if (auto* retried = std::get_if<Retried>(&message)) {
    return on_answer([&](Request& r) { r.retried = std::move(*retried); });
  }
  const std::string* job_id = job_of(message);
  if (job_id->empty()) {
    if (auto* refused = std::get_if<Refused>(&message)) on_refused_frame(*refused, now);
    return;
  }
  auto it = jobs_.find(*job_id);
  if (it == jobs_.end()) return;  // forgotten here before the broker knew
  Followed& followed = it->second;
  std::vector<Event> events;
  followed.stream.on(now, std::move(message), events);
  schedule(followed);
  const auto job = followed.job;
  if (followed.stream.over()) jobs_.erase(it);
  deliver(*job, events);
}

// The broker could not read a frame of ours, so it could not say which job it was about.
void Client::Loop::on_refused_frame(const Refused& refused, Time now) {
  if (!requests_.empty()) {
    return on_answer([&](Request& r) { r.error = refused.message; });
  }
  std::vector<std::string> hit;
  for (auto& [id, followed] : jobs_) {
    if (!followed.stream.accepted() || refused.code == ErrorCode::version ||
        refused.code == ErrorCode::forbidden) {
      hit.push_back(id);
    }
  }
  for (const std::string& id : hit) {
    Refused mine = refused;
    mine.job_id = id;
    on_message(std::move(mine), now);
  }
}

void Client::Loop::on_answer(const std::function<void(Request&)>& fill) {
  if (requests_.empty()) return;
  const auto request = requests_.front();
  requests_.pop_front();
  std::lock_guard lock(mutex_);
  fill(*request);
  request->answered = true;
  changed_.notify_all();
}

void Client::Loop::ask_all(Time now) {
  for (auto& [id, followed] : jobs_) ask(followed, now);
  std::lock_guard lock(mutex_);
  std::erase_if(requests_, [](const auto& request) { return request->abandoned; });
  for (const auto& request : requests_) out_.emplace_back(request->what);
}

void Client::Loop::ask_due(Time now) {
  while (!due_.empty() && due_.top().at <= now) {
    const std::string id = due_.top().job_id;
    due_.pop();
    auto it = jobs_.find(id);
    if (it == jobs_.end()) continue;
    it->second.scheduled = Time::max();
    if (it->second.stream.due() <= now) {
      ask(it->second, now);
    } else {
      schedule(it->second);
    }
  }
}

void Client::Loop::ask(Followed& followed, Time now) {
  followed.stream.ask(now, out_);
  wait_from(now);
  schedule(followed);
}

void Client::Loop::schedule(Followed& followed) {
  if (followed.stream.due() >= followed.scheduled) return;
  followed.scheduled = followed.stream.due();
  due_.push({followed.scheduled, followed.stream.id()});
}

void Client::Loop::wait_from(Time now) {
  if (!waiting_since_) waiting_since_ = now;
}

void Client::Loop::look_at_patience(Time now) {
  if (jobs_.empty()) waiting_since_.reset();
  if (!waiting_since_ || options_.give_up <= Millis(0) ||
      now - *waiting_since_ < options_.give_up) {
    return;
  }
  give_up_all(connection_.connected()
                  ? "no answer from " + options_.endpoint + "; is it the clients' port?"
                  : unconnected());
}

void Client::Loop::give_up_all(const std::string& why) {
  std::vector<std::shared_ptr<Job::State>> given_up;
  std::vector<std::vector<Event>> all;
  for (auto& [id, followed] : jobs_) {
    followed.stream.give_up(why, all.emplace_back());
    given_up.push_back(followed.job);
    out_.emplace_back(Detach{id});
  }
  jobs_.clear();
  for (size_t i = 0; i < given_up.size(); ++i) deliver(*given_up[i], all[i]);
}

void Client::Loop::deliver(Job::State& job, std::vector<Event>& events) {
  if (events.empty()) return;
  if (job.on_event) {
    for (const Event& event : events) {
      if (is_last(event)) {
        std::lock_guard lock(job.mutex);
        job.ended = true;
      }
      job.on_event(event);
    }
    return;
  }
  {
    std::lock_guard lock(job.mutex);
    job.ended = job.ended || is_last(events.back());
    std::move(events.begin(), events.end(), std::back_inserter(job.events));
  }
  job.changed.notify_all();
}

Millis Client::Loop::until_next(Time now) const {
  if (due_.empty()) return kLongestPoll;
  const auto wait = std::chrono::ceil<Millis>(due_.top().at - now);
  return std::clamp(wait, Millis(0), kLongestPoll);
}

}  // namespace limpet::client
