// The receiving side of a hand-over.
#include <algorithm>
#include <utility>

#include "worker/core_state.h"

namespace limpet::worker {
namespace {

constexpr int32_t kMostDamaged = 8;  // pages of one session

}  // namespace

void Core::State::from(const Turn& turn, const ExpectSession& m) {
  const auto known = incoming.find(m.session);
  if (known != incoming.end()) {
    if (known->second.epoch == m.epoch && known->second.giver == m.giver) return;
    if (known->second.epoch > m.epoch) return;  // that one came late
    drop_incoming(m.session);
  }
  const Session* session = sessions.find(m.session);
  if (session != nullptr && session->epoch >= m.epoch) return;
  const bool busy = session != nullptr && session->job;
  if (stopping || options.transfer.empty() || busy || released.covers(m.session, m.epoch)) {
    return say(turn,
               HandOverFailed{m.session, m.epoch, stopping ? "it leaves" : "not wanted here"});
  }
  if (session != nullptr) sessions.close(m.session);  // a copy of the past
  sessions.open_incoming(m);
  Incoming& in = incoming[m.session];
  in.session = m.session;
  in.epoch = m.epoch;
  in.giver = m.giver;
  in.giver_key = m.giver_key;
  in.want = std::min(m.tokens, limit());
  in.has_job = m.has_job;
  in.until = turn.now + 2 * options.transfer_patience;
}

void Core::State::on(const Turn& turn, const FromGiver& event) {
  const auto [number, epoch, giver] = std::visit(
      [](const auto& m) { return std::tuple(m.session, m.epoch, m.giver); }, event.message);
  const auto it = incoming.find(number);
  if (it == incoming.end() || it->second.epoch != epoch || it->second.giver != giver) {
    // One that is not expected yet asks again; one that is over need not.
    if (released.covers(number, epoch)) {
      turn.out.commands.push_back(
          ToGiver{event.peer, TransferRefused{number, epoch, "it is over"}});
    }
    return;
  }
  const Session* session = sessions.find(number);
  if (session == nullptr || !session->incoming) return;  // its room was needed a moment ago
  it->second.peer = event.peer;
  std::visit([&](const auto& m) { receive(turn, it->second, m); }, event.message);
}

// The giver begins, or begins again: a page that is not full may have grown since.
void Core::State::receive(const Turn& turn, Incoming& in, const TransferOpen& m) {
  if (m.receiver != options.incarnation) return;  // meant for who had the endpoint before
  if (m.layout != options.kv_layout) {
    return refuse(turn, in.session, "its pages are of another layout");
  }
  Session& session = *sessions.find(in.session);
  const int64_t full = in.tokens / kv.page_tokens();
  if (in.tokens > full * kv.page_tokens()) {
    sessions.leave_idle(session);
    in.tokens = full * kv.page_tokens();
    kv.truncate(*session.sequence, in.tokens);
    session.tokens.resize(static_cast<size_t>(in.tokens));
    sessions.enter_idle(session);
  }
  in.next = full;
  in.complete = in.asked = false;
  begin_receiving(turn, in);
}

// Room is made for all of it before any of it comes. A receiver that spills for that says nothing
// until it is done: the giver has patience, and asks again.
void Core::State::begin_receiving(const Turn& turn, Incoming& in) {
  int64_t pages = pages_to_come(in);
  for (const auto& [number, other] : incoming)
    if (&other != &in && other.begun) pages += pages_to_come(other);
  const Evict room = make_room(in, pages);
  in.waits = room == Evict::later;
  if (room == Evict::nothing) return refuse(turn, in.session, "there is no room for it");
  if (in.waits) return;
  in.begun = true;
  grant(turn, in, true);
}

int64_t Core::State::pages_to_come(const Incoming& in) const {
  const Session* session = sessions.find(in.session);
  if (in.complete || session == nullptr || !session->incoming) return 0;
  const int64_t page = kv.page_tokens();
  const int64_t have = std::ssize(kv.page_table(*session->sequence));
  return std::max<int64_t>((in.want + page - 1) / page - have, 0);
}

Evict Core::State::make_room(const Incoming& in, int64_t pages) {
  while (kv.free_pages() < pages) {
    if (const Evict given = sessions.give_way(in.has_job); given != Evict::done) return given;
  }
  return Evict::done;
}

void Core::State::receive_waiting(const Turn& turn) {
  std::vector<SessionNumber> waiting;
  for (const auto& [number, in] : incoming)
    if (in.waits && !in.complete && sessions.find(number) != nullptr) waiting.push_back(number);
  for (const SessionNumber number : waiting) begin_receiving(turn, incoming.at(number));
}

void Core::State::receive(const Turn& turn, Incoming& in, const TransferPage& m) {
  if (in.complete || in.waits || m.index < in.next) return;
  if (m.damaged && ++in.damaged > kMostDamaged) {
    return refuse(turn, in.session, "its pages come damaged");
  }
  if (m.damaged || m.index > in.next) {
    if (!std::exchange(in.asked, true)) grant(turn, in, true);
    return;
  }
  if (const Evict room = make_room(in, 1); room != Evict::done) {
    in.waits = room == Evict::later;
    if (!in.waits) refuse(turn, in.session, "there is no room for it");
    return;
  }
  if (std::string why = store_page(turn, in, m); !why.empty()) {
    return refuse(turn, in.session, std::move(why));
  }
  ++in.next;
  in.asked = false;
  in.until = turn.now + 2 * options.transfer_patience;
  if (in.credit - in.next <= options.transfer_window / 2) grant(turn, in, false);
}

// Why it cannot be; empty when it is done.
std::string Core::State::store_page(const Turn& turn, Incoming& in, const TransferPage& m) {
  const int64_t rows = std::ssize(m.tokens);
  const bool wrong = std::ranges::any_of(
      m.tokens, [&](Token t) { return t < 0 || (options.vocab > 0 && t >= options.vocab); });
  if (rows < 1 || rows > kv.page_tokens() || in.tokens != m.index * kv.page_tokens() || wrong ||
      m.bytes == nullptr || std::ssize(*m.bytes) != options.page_bytes) {
    return "a page that cannot be";
  }
  Session& session = *sessions.find(in.session);
  sessions.leave_idle(session);
  const bool room = kv.reserve(*session.sequence, rows);
  if (room) {
    const int32_t page = kv.page_table(*session.sequence)[static_cast<size_t>(m.index)];
    turn.out.commands.push_back(StorePage{page, m.bytes});
    kv.commit(*session.sequence, m.tokens);
    session.tokens.insert(session.tokens.end(), m.tokens.begin(), m.tokens.end());
    in.tokens += rows;
  }
  sessions.enter_idle(session);
  return room ? "" : "there is no room for it";
}

void Core::State::receive(const Turn& turn, Incoming& in, const TransferEnd& m) {
  if (m.tokens != in.tokens) {
    // Once: were each end of several copies answered, each answer would bring further ends.
    if (!in.waits && !std::exchange(in.asked, true)) grant(turn, in, true);
    return;
  }
  turn.out.commands.push_back(ToGiver{in.peer, TransferDone{in.session, in.epoch, m.tokens}});
  if (in.complete) return;
  in.complete = true;
  heartbeat(turn);  // the room as it is now, and that this has been received
}

void Core::State::grant(const Turn& turn, Incoming& in, bool again) {
  in.credit = in.next + options.transfer_window;
  in.told = in.next;
  turn.out.commands.push_back(
      ToGiver{in.peer, TransferCredit{in.session, in.epoch, in.next, in.credit, again}});
}

// Once for what came between two steps: the giver pauses its job by it.
void Core::State::tell_arrived(const Turn& turn) {
  for (auto& [number, in] : incoming)
    if (!in.complete && !in.waits && in.next > in.told) grant(turn, in, false);
}

void Core::State::refuse(const Turn& turn, SessionNumber number, std::string why) {
  const Incoming in = incoming.at(number);
  drop_incoming(number);
  if (!in.peer.empty()) {
    turn.out.commands.push_back(ToGiver{in.peer, TransferRefused{number, in.epoch, why}});
  }
  say(turn, HandOverFailed{number, in.epoch, std::move(why)});
}

void Core::State::drop_incoming(SessionNumber number) {
  incoming.erase(number);
  const Session* session = sessions.find(number);
  if (session != nullptr && session->incoming) sessions.close(number);
}

void Core::State::from(const Turn& turn, const KeepSession& m) {
  const auto in = incoming.find(m.session);
  if (in != incoming.end() && in->second.epoch < m.epoch) incoming.erase(in);
  Session* session = sessions.find(m.session);
  if (session != nullptr && session->incoming && session->epoch < m.epoch) {
    sessions.leave_idle(*session);
    session->incoming = false;
    session->migrated = true;
    session->epoch = m.epoch;
    sessions.enter_idle(*session);
    if (link == Link::registered) next_heartbeat = turn.now;  // it may give way from now on
  } else if (session == nullptr && !released.covers(m.session, m.epoch)) {
    say(turn, SessionDropped{m.session, m.epoch, Reason::evicted});
  }
}

// A giver that is silent has gone, or has been told to stop by a broker that has forgotten it.
void Core::State::receiving_due(const Turn& turn) {
  std::vector<SessionNumber> late;
  for (const auto& [number, in] : incoming)
    if (turn.now >= in.due()) late.push_back(number);
  for (const SessionNumber number : late) refuse(turn, number, "the giver is silent");
}

}  // namespace limpet::worker
