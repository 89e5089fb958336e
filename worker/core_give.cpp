// The giving side of a hand-over.
#include <algorithm>
#include <utility>

#include "worker/core_state.h"

namespace limpet::worker {
namespace {

constexpr int64_t kStepsToGive = 64;

}  // namespace

// Nothing is added to its KV by the next steps.
bool Core::State::at_rest(const Session& session) const {
  return !session.job || jobs.at(*session.job).paused;
}

void Core::State::pause(const Session& session, bool yes) {
  if (session.job) jobs.at(*session.job).paused = yes;
}

void Core::State::from(const Turn& turn, const HandOver& m) {
  const auto known = outgoing.find(m.session);
  if (known != outgoing.end()) {
    const Outgoing& o = known->second;
    if (o.epoch == m.epoch && o.endpoint == m.endpoint && o.receiver == m.receiver) return;
    stop_giving(turn, m.session);
  }
  Session* below = sessions.find(m.session);
  if (below != nullptr && !below->job && !below->sequence && !below->incoming &&
      sessions.bring_back(*below) == Restore::later) {
    return;  // it is told again
  }
  const Session* session = sessions.find(m.session);
  const bool ours = session != nullptr && session->epoch == m.epoch && !session->incoming;
  if (!ours || options.kv_layout == 0 || (session->restore == 0 && !session->sequence) ||
      (session->sequence && kv.length(*session->sequence) == 0)) {
    return say(turn, HandOverFailed{m.session, m.epoch, "none of its KV is here"});
  }
  Outgoing& o = outgoing[m.session];
  o.epoch = m.epoch;
  o.endpoint = m.endpoint;
  o.receiver = m.receiver;
  o.until = turn.now + options.transfer_patience;
  turn.out.commands.push_back(CallReceiver{o.endpoint, m.receiver_key});
  ask_receiver(turn, m.session, o);
}

void Core::State::ask_receiver(const Turn& turn, SessionNumber number, Outgoing& o) {
  o.ask_at = turn.now + options.transfer_ask_again;
  turn.out.commands.push_back(
      ToReceiver{o.endpoint, TransferOpen{number, o.epoch, options.incarnation, o.receiver,
                                          options.kv_layout}});
}

void Core::State::from(const Turn& turn, const StopHandOver& m) {
  const auto it = outgoing.find(m.session);
  if (it != outgoing.end() && it->second.epoch == m.epoch) stop_giving(turn, m.session);
}

// What was sent is forgotten; a job that has paused goes on.
void Core::State::stop_giving(const Turn& turn, SessionNumber number) {
  const std::string endpoint = outgoing.at(number).endpoint;
  outgoing.erase(number);
  if (const Session* session = sessions.find(number)) pause(*session, false);
  for (const auto& [other, o] : outgoing)
    if (o.endpoint == endpoint) return;
  turn.out.commands.push_back(HangUp{endpoint});
}

void Core::State::fail_giving(const Turn& turn, SessionNumber number, std::string why) {
  const Epoch epoch = outgoing.at(number).epoch;
  stop_giving(turn, number);
  say(turn, HandOverFailed{number, epoch, std::move(why)});
}

void Core::State::on(const Turn& turn, const FromReceiver& event) {
  const auto [number, epoch] = std::visit(
      [](const auto& m) { return std::pair(m.session, m.epoch); }, event.message);
  const auto it = outgoing.find(number);
  if (it == outgoing.end() || it->second.epoch != epoch || it->second.endpoint != event.endpoint) {
    return;
  }
  Outgoing& o = it->second;
  if (const auto* credit = std::get_if<TransferCredit>(&event.message)) {
    heard(turn, o, *credit);
  } else if (const auto* done = std::get_if<TransferDone>(&event.message)) {
    o.done = o.done || (o.end >= 0 && done->tokens == o.end);
  } else {
    fail_giving(turn, number, std::get<TransferRefused>(event.message).why);
  }
}

void Core::State::heard(const Turn& turn, Outgoing& o, const TransferCredit& m) {
  o.open = true;
  o.credit = std::max(o.credit, m.credit);
  o.ask_at = turn.now + options.transfer_ask_again;
  if (m.next_page > o.arrived) {
    o.arrived = m.next_page;
    o.until = turn.now + options.transfer_patience;
  }
  if (!m.again || m.next_page > o.next) return;
  o.next = m.next_page;
  o.end = -1;
  o.done = false;
}

void Core::State::give_all(const Turn& turn) {
  std::vector<std::pair<SessionNumber, std::string>> failed;
  for (auto& [number, o] : outgoing) {
    if (std::string why = give_pages(turn, number, o); !why.empty()) {
      failed.emplace_back(number, std::move(why));
    }
  }
  for (auto& [number, why] : failed) fail_giving(turn, number, std::move(why));
}

// Why it cannot go on; empty when it can.
std::string Core::State::give_pages(const Turn& turn, SessionNumber number, Outgoing& o) {
  const Session* session = sessions.find(number);
  if (session != nullptr && session->epoch == o.epoch && session->restore != 0) return {};
  if (session == nullptr || session->epoch != o.epoch || !session->sequence) {
    return "its KV is gone";
  }
  const int64_t length = kv.length(*session->sequence), rows_of_page = kv.page_tokens();
  if (length < o.sent) return "it has been cut";
  if (!o.open || o.end >= 0) return {};
  const auto tokens = kv.tokens(*session->sequence);
  const auto pages = kv.page_table(*session->sequence);
  if (o.next <= o.arrived) o.until = turn.now + options.transfer_patience;  // it is our turn
  while (o.next < o.credit) {
    const int64_t from = o.next * rows_of_page, rows = std::min(rows_of_page, length - from);
    if (rows < rows_of_page && !at_rest(*session)) {
      if (!may_pause(turn, o)) break;
      pause(*session, true);
    }
    const bool waited_for = session->job && at_rest(*session);
    if (rows <= 0 || (pages_allowed <= 0 && !waited_for)) break;
    --pages_allowed;
    TransferPage page{number, o.epoch, options.incarnation, o.next, {}, nullptr, false};
    page.tokens.assign(tokens.begin() + from, tokens.begin() + from + rows);
    turn.out.commands.push_back(
        SendPage{o.endpoint, std::move(page), pages[static_cast<size_t>(o.next)]});
    ++o.next;
    o.sent = std::max(o.sent, from + rows);
  }
  if (o.next * rows_of_page < length || !at_rest(*session)) return {};
  o.end = length;
  turn.out.commands.push_back(
      ToReceiver{o.endpoint, TransferEnd{number, o.epoch, options.incarnation, length}});
  return {};
}

// All full pages have left. Those that are on their way may grow fewer while its job runs on; where
// the way is longer than it takes to fill another page they never would.
bool Core::State::may_pause(const Turn& turn, Outgoing& o) const {
  if (o.next - o.arrived <= pages_of_a_step()) return true;
  o.pause_by = std::min(o.pause_by, turn.now + options.transfer_ask_again);
  const Time arrived_at = o.until - options.transfer_patience;
  return turn.now >= o.pause_by && turn.now - arrived_at < options.transfer_ask_again;
}

// Each page makes the step before which it leaves longer for all who decode here, so it is a small
// part of what steps take anyway.
int64_t Core::State::pages_of_a_step() const {
  const int64_t page = std::max<int64_t>(options.page_bytes, 1);
  const int64_t bytes = options.transfer_step_rate * step_took.count() / 1'000'000;
  return std::max<int64_t>(options.transfer_step_pages, bytes / page);
}

// The time that there is to leave ends too: most of it leaves within so many steps.
int64_t Core::State::pages_before_next_step() const {
  int64_t left = 0;
  for (const auto& [number, o] : outgoing) {
    const Session* session = sessions.find(number);
    if (session == nullptr || !session->sequence) continue;
    left += std::max<int64_t>(kv.length(*session->sequence) / kv.page_tokens() - o.next, 0);
  }
  return std::max(pages_of_a_step(), left / kStepsToGive);
}

void Core::State::giving_due(const Turn& turn) {
  std::vector<SessionNumber> late;
  for (auto& [number, o] : outgoing) {
    if (o.done) continue;
    if (turn.now >= o.until) {
      late.push_back(number);
    } else if (turn.now >= o.ask_at) {
      ask_receiver(turn, number, o);
    }
  }
  for (const SessionNumber number : late) fail_giving(turn, number, "the receiver is silent");
}

}  // namespace limpet::worker
