// What clients have said and the broker has not looked at yet. One frame may say very much, so a
// turn handles a share of each client's, in turn: what one has to say waits for the number of
// those who speak, not for how much they say. Pure. One thread.
#pragma once
#include <algorithm>
#include <deque>
#include <unordered_map>
#include <utility>
#include <vector>

#include "broker/event.h"

namespace limpet::broker {

class Inbox {
 public:
  // All that one frame of so many bytes says, behind what its client has said before.
  void put(std::vector<ClientEvent> said, size_t bytes) {
    if (said.empty()) return;
    const ClientId client = said.front().client;
    auto [it, fresh] = frames_.try_emplace(client);
    if (fresh) turns_.push_back(client);
    it->second.push_back({std::move(said), 0, bytes});
    bytes_ += bytes;
  }

  // Appends the next of what is here: of each client's the same share of `most`, one at least.
  // Whose turn has not come is first in the next one.
  void take(size_t most, std::vector<Event>& out) {
    const size_t share = std::max<size_t>(most / std::max<size_t>(turns_.size(), 1), 1);
    for (size_t clients = turns_.size(); clients > 0 && most > 0; --clients) {
      const ClientId client = turns_.front();
      turns_.pop_front();
      auto& frames = frames_.at(client);
      size_t left = std::min(share, most);
      for (; left > 0 && !frames.empty(); --left, --most) {
        Frame& frame = frames.front();
        out.push_back(std::move(frame.said[frame.next++]));
        if (frame.next < frame.said.size()) continue;
        bytes_ -= frame.bytes;
        frames.pop_front();
      }
      if (frames.empty()) {
        frames_.erase(client);
      } else {
        turns_.push_back(client);
      }
    }
  }

  void forget(ClientId client) {
    const auto it = frames_.find(client);
    if (it == frames_.end()) return;
    for (const Frame& frame : it->second) bytes_ -= frame.bytes;
    frames_.erase(it);
    std::erase(turns_, client);
  }

  bool empty() const { return frames_.empty(); }
  size_t bytes() const { return bytes_; }  // of the frames of which anything is here

 private:
  struct Frame {
    std::vector<ClientEvent> said;
    size_t next = 0;  // to be taken
    size_t bytes = 0;
  };
  std::unordered_map<ClientId, std::deque<Frame>> frames_;  // none is empty
  std::deque<ClientId> turns_;                              // the clients in frames_
  size_t bytes_ = 0;
};

}  // namespace limpet::broker
