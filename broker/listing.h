// How much one listing tells: it has to fit a frame, and the memory that one client may cost.
#pragma once
#include <algorithm>
#include <cstddef>
#include <string>

#include "schema/client_messages.h"

namespace limpet::broker {

inline constexpr size_t kListedBytes = 4u << 20;  // beyond: truncated
inline constexpr size_t kListedItem = 128;        // of an entry, without its strings
inline constexpr size_t kListedDetail = 512;      // bytes told of why a job is as it is

inline size_t listed_bytes(const JobInfo& j) {
  return kListedItem + j.job_id.size() + j.session.size() + j.worker.size() + j.detail.size() +
         j.tenant.size();
}
inline size_t listed_bytes(const SessionInfo& s) {
  return kListedItem + s.session.size() + s.home.size() + s.tenant.size();
}
inline size_t listed_bytes(const WorkerInfo& w) {
  return kListedItem + w.worker.size() + w.device.size() + w.model.size() + w.state.size();
}

// Cuts a text to at most `most` bytes, between characters.
inline void shorten(std::string& text, size_t most) {
  if (text.size() <= most) return;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0) == 0x80) --most;
  text.resize(most);
}

// What is left of one listing: entries, and bytes of them.
struct ListingRoom {
  size_t items = 0;
  size_t bytes = kListedBytes;

  // False when this entry has no place any more.
  template <typename Info>
  bool take(const Info& info) {
    const size_t n = listed_bytes(info);
    if (items == 0 || n > bytes) return false;
    --items;
    bytes -= n;
    return true;
  }
};

}  // namespace limpet::broker
