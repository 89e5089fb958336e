#include "tests/sim/simulation.h"

namespace limpet::sim {

const std::vector<Plant>& all_plants() {
  static const std::vector<Plant> all{
      Plant::attempt_unchecked,   Plant::epoch_unchecked,    Plant::send_before_commit,
      Plant::no_attempt_deadline, Plant::numbers_reused,     Plant::credit_inflated,
      Plant::kv_credit_inflated,  Plant::ended_forgotten,    Plant::tokens_not_durable,
      Plant::wrong_transcript,    Plant::page_altered,       Plant::pages_lost,
      Plant::move_not_durable,    Plant::dispatch_doubled,   Plant::moved_unserved,
      Plant::tenant_forgotten,
      Plant::listing_unfiltered,  Plant::prefixes_shared,    Plant::running_cap_ignored,
      Plant::queue_cap_ignored,   Plant::kv_cap_ignored,     Plant::tenant_favoured,
      Plant::priority_lost};
  return all;
}

std::string_view name(Plant plant) {
  switch (plant) {
    case Plant::none:
      return "none";
    case Plant::attempt_unchecked:
      return "attempt-unchecked";
    case Plant::epoch_unchecked:
      return "epoch-unchecked";
    case Plant::send_before_commit:
      return "send-before-commit";
    case Plant::no_attempt_deadline:
      return "no-attempt-deadline";
    case Plant::numbers_reused:
      return "numbers-reused";
    case Plant::credit_inflated:
      return "credit-inflated";
    case Plant::kv_credit_inflated:
      return "kv-credit-inflated";
    case Plant::ended_forgotten:
      return "ended-forgotten";
    case Plant::tokens_not_durable:
      return "tokens-not-durable";
    case Plant::wrong_transcript:
      return "wrong-transcript";
    case Plant::page_altered:
      return "page-altered";
    case Plant::pages_lost:
      return "pages-lost";
    case Plant::move_not_durable:
      return "move-not-durable";
    case Plant::dispatch_doubled:
      return "dispatch-doubled";
    case Plant::moved_unserved:
      return "moved-unserved";
    case Plant::tenant_forgotten:
      return "tenant-forgotten";
    case Plant::listing_unfiltered:
      return "listing-unfiltered";
    case Plant::prefixes_shared:
      return "prefixes-shared";
    case Plant::running_cap_ignored:
      return "running-cap-ignored";
    case Plant::queue_cap_ignored:
      return "queue-cap-ignored";
    case Plant::kv_cap_ignored:
      return "kv-cap-ignored";
    case Plant::tenant_favoured:
      return "tenant-favoured";
    case Plant::priority_lost:
      return "priority-lost";
  }
  return "?";
}

}  // namespace limpet::sim
