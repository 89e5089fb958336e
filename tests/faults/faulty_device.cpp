// For a worker as it is, with a device that fails: LIMPET_LOSE_DEVICE_AT_RUN=N.
#include <cstdlib>

#include "tests/faults/faulty_backend.h"

namespace {

const bool told = [] {
  if (const char* run = std::getenv("LIMPET_LOSE_DEVICE_AT_RUN")) {
    limpet::faults::faults().lost_at_run = std::atoll(run);
  }
  return true;
}();

}  // namespace
