#include "clients/cpp/client.h"

#include "clients/cpp/loop.h"

namespace limpet::client {

Job::Job(std::shared_ptr<State> state) : state_(std::move(state)) {}
Job::Job(Job&&) noexcept = default;

Job& Job::operator=(Job&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

Job::~Job() {
  if (state_ == nullptr) return;
  if (auto loop = state_->loop.lock()) loop->forget(state_);
}

const std::string& Job::id() const { return state_->id; }

std::optional<Event> Job::next(Millis timeout) {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait_for(lock, timeout, [&] { return !state_->events.empty() || state_->ended; });
  if (state_->events.empty()) return std::nullopt;
  Event event = std::move(state_->events.front());
  state_->events.pop_front();
  return event;
}

bool Job::over() const {
  std::lock_guard lock(state_->mutex);
  return state_->ended && state_->events.empty();
}

void Job::cancel() {
  if (auto loop = state_->loop.lock()) loop->cancel(state_);
}

Client::Client(const Options& options) : loop_(std::make_shared<Loop>(options)) {}
Client::~Client() = default;

bool Client::wait_connected(Millis timeout) { return loop_->wait_connected(timeout); }
std::string Client::refused() const { return loop_->refused(); }
int Client::connections() const { return loop_->connections(); }

Job Client::submit(JobSpec spec, OnEvent on_event) {
  auto state = std::make_shared<Job::State>(spec.job_id, std::move(on_event));
  state->loop = loop_;
  loop_->follow(state, std::move(spec));
  return Job(std::move(state));
}

Job Client::attach(std::string job_id, int64_t from_index, OnEvent on_event) {
  auto state = std::make_shared<Job::State>(std::move(job_id), std::move(on_event));
  state->loop = loop_;
  loop_->follow(state, from_index);
  return Job(std::move(state));
}

Client::Listing Client::list(limpet::Listing what, uint32_t limit, Millis timeout) {
  return loop_->list(List{what, limit}, timeout);
}

Client::Listing Client::list(const List& what, Millis timeout) {
  return loop_->list(what, timeout);
}

Client::Releasing Client::release(const std::string& session, Millis timeout,
                                  const std::string& tenant) {
  return loop_->release({session, tenant}, timeout);
}

Client::Retrying Client::retry(const std::string& job_id, Millis timeout,
                               const std::string& tenant) {
  return loop_->retry({job_id, tenant}, timeout);
}

Client::Draining Client::drain(const std::string& worker, uint64_t incarnation, Millis timeout) {
  return loop_->drain(worker, incarnation, timeout);
}

}  // namespace limpet::client
