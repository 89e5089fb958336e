// One seed, one run: the real broker core and the real worker cores with their real page tables,
// over a disk, a network, processes and clocks that fail as the seed says.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace limpet::sim {

// A bug put in on purpose, outside of the cores: the simulation has to find it.
enum class Plant : uint8_t {
  none,
  attempt_unchecked,    // what is said of old attempts looks as if of the current one
  epoch_unchecked,      // what is said under an old lease looks as if under the current one
  send_before_commit,   // what was decided is told before it is durable
  no_attempt_deadline,  // an attempt may be silent for ever
  numbers_reused,       // recovery does not say which numbers were drawn
  credit_inflated,      // workers' announcements of places are multiplied on their way
  kv_credit_inflated,   // their announcements of free KV are made larger
  ended_forgotten,      // the store does not find jobs that have ended
  tokens_not_durable,   // the disk drops tokens that were acknowledged
  wrong_transcript,     // a worker is sent a transcript without its last token but one
  page_altered,         // a page of KV is not what was sent, and its checksum says nothing
  pages_lost,           // no page of KV ever reaches the worker that it is for
  move_not_durable,     // the disk drops the new home of a session that was handed over
  dispatch_doubled,     // what is dispatched to a worker reaches another one too
  moved_unserved,       // no job of a session that was handed over reaches its new home
  tenant_forgotten,     // who asks is not known: all clients are of one tenant
  listing_unfiltered,   // a tenant's listing is an admin's
  prefixes_shared,      // workers are not told whose a session is
  running_cap_ignored,  // the file's cap of running jobs does not reach the core
  queue_cap_ignored,    // nor that of queued jobs
  kv_cap_ignored,       // nor that of resident tokens
  tenant_favoured,      // the first tenant's weight is a thousand times the file's
  priority_lost,        // clients' priorities are dropped on their way
  keep_alive_lost,      // so is how long a session's KV is to be kept
  session_cap_lost,     // and how many tokens it may hold
  tier_told_early,      // KV that moves below the device or back is told of before it is there
  tier_page_altered,    // a page from below the device is not what went, and nothing says so
};
std::string_view name(Plant plant);
// The promise that it breaks, in the words of the violation.
std::string_view breaks(Plant plant);
const std::vector<Plant>& all_plants();  // without none

struct Verdict {
  std::string violation;  // empty: none
  int64_t sim_ms = 0;
  int64_t jobs = 0, finished = 0, failed = 0, stopped = 0;  // stopped: cancelled or expired
  int64_t attempts = 0, tokens = 0, resident_starts = 0, moves = 0;
  int64_t migrated_starts = 0, hand_overs = 0, hand_overs_failed = 0, pages_moved = 0;
  int64_t restored_starts = 0, tier_moves = 0;
  int64_t broker_crashes = 0, worker_crashes = 0, messages = 0, messages_lost = 0;
  int64_t partitions = 0, slow_links = 0, stalls = 0, full_disks = 0, solo = 0;
};

Verdict simulate(uint64_t seed, Plant plant, bool trace);

}  // namespace limpet::sim
