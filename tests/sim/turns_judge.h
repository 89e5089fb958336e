// Whose turn it is, judged from what has become durable: within a tenant the most urgent first,
// among tenants shares by weight. For scenes of one worker where nothing goes wrong; there the
// promises hold to the letter.
#pragma once
#include <map>
#include <string>

#include "tests/sim/world.h"

namespace limpet::sim {

class TurnsJudge {
 public:
  explicit TurnsJudge(const World& world) : world_(world) {}

  // Of an entry that is about to be committed to `disk`.
  void judge(const JournalEntry& entry, const ReferenceStore& disk);

 private:
  struct Tenant {
    int64_t had = 0;          // tokens prefilled and made
    bool waits = false;       // without a break, for a place
    std::map<std::string, int64_t> had_then;  // by all, when it began to
  };
  // A job that waits at the head of its session's lane.
  static const ReferenceStore::Job* head(const ReferenceStore& disk,
                                         const ReferenceStore::Session& s);
  void judge_urgency(const broker::JobDispatched& e, const ReferenceStore& disk) const;
  void judge_shares(const std::string& served, const ReferenceStore& disk) const;
  void note_who_waits(const ReferenceStore& disk, JobNumber dispatched);
  const broker::TenantPolicy& policy(const std::string& tenant) const;

  const World& world_;
  std::map<std::string, Tenant> tenants_;
};

}  // namespace limpet::sim
