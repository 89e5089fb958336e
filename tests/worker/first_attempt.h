// What a broker's first word about a job is, in tests of workers.
#pragma once
#include <memory>
#include <utility>

#include "schema/messages.h"

namespace limpet::worker {

inline Dispatch first_attempt(uint64_t job, uint64_t session, std::shared_ptr<const JobSpec> spec,
                              int64_t base = 0, uint64_t seed = 5) {
  Dispatch d;
  d.job = JobNumber{job};
  d.attempt = Attempt{1};
  d.session = SessionNumber{session};
  d.epoch = Epoch{1};
  d.base_tokens = base;
  d.seed = seed;
  d.spec = std::move(spec);
  return d;
}

}  // namespace limpet::worker
