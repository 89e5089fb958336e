// Routing ids of one socket, and the numbers that the broker knows them by. A number belongs to
// one routing id and one key: whoever comes with another key is somebody else.
#pragma once
#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace limpet::broker {

template <typename Id>
class Peers {
 public:
  explicit Peers(size_t most) : most_(most) {}

  // `turn` grows; the peer has been heard in it. `replaced` is told of the number that the routing
  // id had under another key.
  template <typename Replaced>
  Id id_of(std::string_view routing, std::string_view key, uint64_t turn, Replaced replaced) {
    auto it = ids_.find(std::string(routing));
    if (it != ids_.end() && peers_.at(it->second).key != key) {
      replaced(it->second);
      forget(it->second);
      it = ids_.end();
    }
    if (it == ids_.end()) {
      if (ids_.size() >= most_) forget_silent();
      it = ids_.emplace(std::string(routing), Id(++last_)).first;
      peers_.emplace(it->second, Peer{it->first, std::string(key), turn});
    }
    peers_.at(it->second).heard = turn;
    return it->second;
  }
  const std::string* routing(Id id) const {
    auto it = peers_.find(id);
    return it == peers_.end() ? nullptr : &it->second.routing;
  }
  void forget(Id id) {
    if (auto it = peers_.find(id); it != peers_.end()) {
      ids_.erase(it->second.routing);
      peers_.erase(it);
    }
  }
  // Forgets those whose key fulfils the condition; returns their numbers.
  template <typename Condition>
  std::vector<Id> forget_if(Condition condition) {
    std::vector<Id> gone;
    for (const auto& [id, peer] : peers_) {
      if (condition(peer.key)) gone.push_back(id);
    }
    for (const Id id : gone) forget(id);
    return gone;
  }

 private:
  struct Peer {
    std::string routing, key;
    uint64_t heard = 0;
  };
  // The half that has been silent for longest. One that lives gets a new number when it speaks.
  void forget_silent() {
    std::vector<std::pair<uint64_t, Id>> by_age;
    for (const auto& [id, peer] : peers_) by_age.emplace_back(peer.heard, id);
    const auto middle = by_age.begin() + static_cast<ptrdiff_t>(by_age.size() / 2);
    std::nth_element(by_age.begin(), middle, by_age.end());
    for (auto it = by_age.begin(); it != middle; ++it) forget(it->second);
  }

  size_t most_;
  std::unordered_map<std::string, Id> ids_;
  std::unordered_map<Id, Peer> peers_;
  uint64_t last_ = 0;
};

}  // namespace limpet::broker
