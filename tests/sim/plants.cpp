#include "tests/sim/simulation.h"

namespace limpet::sim {
namespace {

struct Line {
  Plant plant;
  std::string_view name, breaks;
};
constexpr Line kPlants[] = {  // as in README.md
    {Plant::attempt_unchecked, "attempt-unchecked", "an old owner's report became durable"},
    {Plant::epoch_unchecked, "epoch-unchecked", "given up on an old lease's word"},
    {Plant::send_before_commit, "send-before-commit",
     "a worker decodes an attempt that is not durable"},
    {Plant::no_attempt_deadline, "no-attempt-deadline", "no progress after healing"},
    {Plant::numbers_reused, "numbers-reused", "its number was used before"},
    {Plant::credit_inflated, "credit-inflated", "has more jobs than places"},
    {Plant::kv_credit_inflated, "kv-credit-inflated", "has jobs for more KV than it holds"},
    {Plant::ended_forgotten, "ended-forgotten", "acknowledged: refused as not_found"},
    {Plant::tokens_not_durable, "tokens-not-durable", "ends where an undisturbed run would not"},
    {Plant::wrong_transcript, "wrong-transcript", "a token that its transcript does not give"},
    {Plant::page_altered, "page-altered", "decodes on KV of other tokens"},
    {Plant::pages_lost, "pages-lost", "prefilled again though its home left in peace"},
    {Plant::move_not_durable, "move-not-durable", "a session has two owners"},
    {Plant::dispatch_doubled, "dispatch-doubled", "a session has two owners"},
    {Plant::moved_unserved, "moved-unserved", "nobody serves session"},
    {Plant::tenant_forgotten, "tenant-forgotten", "taken into a session of another tenant"},
    {Plant::listing_unfiltered, "listing-unfiltered", "a tenant is listed another one's"},
    {Plant::prefixes_shared, "prefixes-shared", "decodes on KV of another tenant"},
    {Plant::running_cap_ignored, "running-cap-ignored", "more jobs running than it may"},
    {Plant::queue_cap_ignored, "queue-cap-ignored", "more jobs queued than it may"},
    {Plant::kv_cap_ignored, "kv-cap-ignored", "need more KV than it may have"},
    {Plant::tenant_favoured, "tenant-favoured", "tokens more than its share"},
    {Plant::keep_alive_lost, "keep-alive-lost", "kept beyond its time"},
    {Plant::session_cap_lost, "session-cap-lost", "grows beyond what its client allowed"},
    {Plant::priority_lost, "priority-lost", "which is more urgent"},
    {Plant::tier_told_early, "tier-told-early", "decodes on KV of other tokens"},
    {Plant::tier_page_altered, "tier-page-altered", "decodes on KV of other tokens"},
};

const Line* line(Plant plant) {
  for (const Line& l : kPlants)
    if (l.plant == plant) return &l;
  return nullptr;
}

}  // namespace

const std::vector<Plant>& all_plants() {
  static const std::vector<Plant> all = [] {
    std::vector<Plant> plants;
    for (const Line& l : kPlants) plants.push_back(l.plant);
    return plants;
  }();
  return all;
}

std::string_view name(Plant plant) { return line(plant) ? line(plant)->name : "none"; }
std::string_view breaks(Plant plant) { return line(plant) ? line(plant)->breaks : ""; }

}  // namespace limpet::sim
