#include "schema/types.h"

#include <array>

namespace limpet {
namespace {

template <typename E, size_t N>
std::string_view pick(const std::array<std::string_view, N>& names, E e) {
  return raw(e) < N ? names[raw(e)] : "unknown";
}

constexpr std::array<std::string_view, 7> kJobStates = {
    "queued", "dispatched", "running", "finished", "failed", "cancelled", "expired"};
constexpr std::array<std::string_view, 3> kSessionStates = {"idle", "queued", "running"};
constexpr std::array<std::string_view, 4> kResidencies = {"resident", "restored", "migrated",
                                                          "reprefilled"};
constexpr std::array<std::string_view, 8> kReasons = {"none",    "new_session",  "worker_lost",
                                                      "evicted", "drained",      "start_deadline",
                                                      "rewound", "model_changed"};
constexpr std::array<std::string_view, 4> kFinishReasons = {"stop", "length", "cancelled",
                                                            "expired"};
constexpr std::array<std::string_view, 16> kErrorCodes = {
    "none",      "invalid", "busy",         "conflict", "not_found",          "too_long",
    "too_large", "version", "not_resident", "deadline", "attempts_exhausted", "worker_error",
    "no_worker", "storage", "internal", "forbidden"};

static_assert(raw(JobState::expired) + 1 == kJobStates.size());
static_assert(raw(SessionState::running) + 1 == kSessionStates.size());
static_assert(raw(Residency::reprefilled) + 1 == kResidencies.size());
static_assert(raw(Reason::model_changed) + 1 == kReasons.size());
static_assert(raw(FinishReason::expired) + 1 == kFinishReasons.size());
static_assert(raw(ErrorCode::forbidden) + 1 == kErrorCodes.size());

}  // namespace

std::string_view name(JobState s) { return pick(kJobStates, s); }
std::string_view name(SessionState s) { return pick(kSessionStates, s); }
std::string_view name(Residency r) { return pick(kResidencies, r); }
std::string_view name(Reason r) { return pick(kReasons, r); }
std::string_view name(FinishReason r) { return pick(kFinishReasons, r); }
std::string_view name(ErrorCode c) { return pick(kErrorCodes, c); }

}  // namespace limpet
