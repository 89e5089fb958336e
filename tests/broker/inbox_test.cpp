#include "broker/inbox.h"

#include <gtest/gtest.h>

namespace limpet::broker {
namespace {

std::vector<ClientEvent> said(uint64_t client, int messages, int64_t from = 0) {
  std::vector<ClientEvent> out;
  for (int i = 0; i < messages; ++i) {
    out.push_back({ClientId{client}, Attach{"a", from + i}, 0, std::nullopt});
  }
  return out;
}

// Who said it, and the index it asks from, which tells its place in what that one has said.
using Heard = std::vector<std::pair<uint64_t, int64_t>>;

Heard taken(Inbox& inbox, size_t most) {
  std::vector<Event> events;
  inbox.take(most, events);
  Heard out;
  for (const Event& e : events) {
    const auto& c = std::get<ClientEvent>(e);
    out.emplace_back(static_cast<uint64_t>(c.client), std::get<Attach>(c.message).from_index);
  }
  return out;
}

TEST(Inbox, EachHasItsShareAndItsOrder) {
  Inbox inbox;
  inbox.put(said(1, 3), 30);
  inbox.put(said(2, 1), 10);
  inbox.put(said(1, 2, 3), 20);
  EXPECT_EQ(inbox.bytes(), 60u);
  EXPECT_EQ(taken(inbox, 4), (Heard{{1, 0}, {1, 1}, {2, 0}}));
  EXPECT_EQ(inbox.bytes(), 50u);
  EXPECT_EQ(taken(inbox, 2), (Heard{{1, 2}, {1, 3}})) << "all of it, when nobody else is there";
  EXPECT_EQ(inbox.bytes(), 20u);
  EXPECT_EQ(taken(inbox, 4), (Heard{{1, 4}}));
  EXPECT_TRUE(inbox.empty());
  EXPECT_EQ(inbox.bytes(), 0u);
  EXPECT_EQ(taken(inbox, 4), Heard{});
}

TEST(Inbox, WhoseTurnHasNotComeIsFirstNextTime) {
  Inbox inbox;
  for (uint64_t client : {1, 2, 3}) inbox.put(said(client, 2), 1);
  EXPECT_EQ(taken(inbox, 2), (Heard{{1, 0}, {2, 0}}));
  EXPECT_EQ(taken(inbox, 2), (Heard{{3, 0}, {1, 1}}));
  EXPECT_EQ(taken(inbox, 2), (Heard{{2, 1}, {3, 1}}));
  EXPECT_TRUE(inbox.empty());
}

TEST(Inbox, OfWhoHasGoneNothingIsLeft) {
  Inbox inbox;
  inbox.put(said(1, 2), 10);
  inbox.put(said(2, 1), 10);
  inbox.forget(ClientId{1});
  inbox.forget(ClientId{7});
  EXPECT_EQ(inbox.bytes(), 10u);
  EXPECT_EQ(taken(inbox, 5), (Heard{{2, 0}}));
  inbox.put(said(1, 1, 9), 10);
  EXPECT_EQ(taken(inbox, 5), (Heard{{1, 9}}));
}

}  // namespace
}  // namespace limpet::broker
