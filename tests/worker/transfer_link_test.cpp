// Who may bring a worker KV: with keys, only those that the broker has announced, each for as long.
#include "worker/transfer_link.h"

#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "keys/keys.h"

namespace limpet::worker {
namespace {

using testing::HasSubstr;
using std::chrono::milliseconds;

TransferOpen open_of(uint64_t session) {
  return {SessionNumber{session}, Epoch{1}, 7, 8, 9};
}

constexpr milliseconds kLong{60000}, kShort{500};

class TransferKeys : public testing::Test {
 protected:
  static keys::Identity identity() { return {keys::draw(), keys::draw().public_key}; }

  // The sessions of which `receiver` hears within so long; it stops at the first.
  static std::vector<uint64_t> heard(TransferLink& receiver, milliseconds within,
                                     TransferLink* giver = nullptr) {
    std::vector<uint64_t> sessions;
    const auto end = std::chrono::steady_clock::now() + within;
    while (sessions.empty() && std::chrono::steady_clock::now() < end) {
      std::vector<Event> events;
      receiver.take(events);
      if (giver) giver->take(events);  // its loop turns too
      for (const Event& e : events) {
        const auto* giver = std::get_if<FromGiver>(&e);
        const auto* m = giver ? std::get_if<TransferOpen>(&giver->message) : nullptr;
        if (m != nullptr) sessions.push_back(raw(m->session));
      }
      std::this_thread::sleep_for(milliseconds(2));
    }
    return sessions;
  }

  // Until one more has been turned away, while nothing is heard. False: not within kLong.
  static bool refuses(TransferLink& receiver, int64_t before, TransferLink* giver = nullptr) {
    const auto end = std::chrono::steady_clock::now() + kLong;
    while (std::chrono::steady_clock::now() < end) {
      EXPECT_TRUE(heard(receiver, milliseconds(20), giver).empty());
      if (receiver.counters().refused > before) return true;
    }
    return false;
  }

  const keys::Identity receives_ = identity(), gives_ = identity(), other_ = identity();
  TransferLink receiver_{"tcp://127.0.0.1:*", receives_};
  const std::string at_ = receiver_.endpoint();
};

TEST_F(TransferKeys, TheOneThatIsAnnouncedComesIn) {
  TransferLink giver("", gives_);
  giver.call({at_, receives_.own.public_key});
  giver.send(ToReceiver{at_, open_of(1)});
  EXPECT_TRUE(refuses(receiver_, 0, &giver)) << "before the broker's word of it";
  receiver_.let_in({gives_.own.public_key});
  // It tries again by itself. What it had said is lost; a giver says it until it is answered.
  std::vector<uint64_t> sessions;
  for (int i = 0; i < 120 && sessions.empty(); ++i) {
    giver.send(ToReceiver{at_, open_of(1)});
    sessions = heard(receiver_, kShort, &giver);
  }
  EXPECT_EQ(sessions, std::vector<uint64_t>{1});
}

TEST_F(TransferKeys, AClientsKeyAndAnUnknownOneDoNot) {
  receiver_.let_in({gives_.own.public_key});
  for (const keys::Identity& stranger : {other_, identity()}) {
    const int64_t before = receiver_.counters().refused;
    TransferLink link("", stranger);
    link.call({at_, receives_.own.public_key});
    link.send(ToReceiver{at_, open_of(2)});
    EXPECT_TRUE(refuses(receiver_, before));
  }
  TransferLink open("");  // without keys, it does not even get as far as to be asked for one
  open.call({at_, ""});
  open.send(ToReceiver{at_, open_of(3)});
  EXPECT_TRUE(heard(receiver_, kShort).empty());
}

TEST_F(TransferKeys, OnlyForThatHandOver) {
  TransferLink giver("", gives_);
  receiver_.let_in({gives_.own.public_key});
  giver.call({at_, receives_.own.public_key});
  giver.send(ToReceiver{at_, open_of(1)});
  ASSERT_EQ(heard(receiver_, kLong), std::vector<uint64_t>{1});
  receiver_.let_in({});  // it is over; the connection is there still
  const int64_t before = receiver_.counters().refused;
  giver.send(ToReceiver{at_, open_of(2)});
  EXPECT_TRUE(refuses(receiver_, before));
}

TEST_F(TransferKeys, AGiverSpeaksToNobodyButTheReceiverThatWasNamed) {
  TransferLink giver("", gives_);
  receiver_.let_in({gives_.own.public_key});
  giver.call({at_, other_.own.public_key});
  giver.send(ToReceiver{at_, open_of(1)});
  EXPECT_TRUE(heard(receiver_, kShort).empty());
  giver.call({at_, receives_.own.public_key});  // another process is to be found there now
  giver.send(ToReceiver{at_, open_of(2)});
  EXPECT_EQ(heard(receiver_, kLong), std::vector<uint64_t>{2});
}

TEST_F(TransferKeys, OneWithKeysDoesNotGiveToOneWithout) {
  TransferLink plain("tcp://127.0.0.1:*");
  TransferLink giver("", gives_);
  giver.call({plain.endpoint(), ""});
  giver.send(ToReceiver{plain.endpoint(), open_of(1)});
  EXPECT_TRUE(heard(plain, kShort).empty());
}

TEST(TransferLink, OffLoopbackNeedsKeysAndAnAddress) {
  const auto why = [](const std::string& endpoint, const keys::Identity& identity) {
    try {
      TransferLink link(endpoint, identity);
    } catch (const TransportError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const keys::Identity own{keys::draw(), keys::draw().public_key};
  EXPECT_THAT(why("tcp://10.0.0.1:*", {}), HasSubstr("--key"));
  EXPECT_THAT(why("tcp://0.0.0.0:*", own), HasSubstr("names no address"));
  EXPECT_EQ(why("tcp://127.0.0.1:*", {}), "");
  EXPECT_EQ(why("tcp://127.0.0.1:*", own), "");
}

}  // namespace
}  // namespace limpet::worker
