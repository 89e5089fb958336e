// Which rows run in the next step. Pure and deterministic.
//
// Jobs are served by age. A job is admitted when there are pages for all its tokens, taken from
// idle sessions where need be, with one page to spare for each job that is decoding; none overtakes
// an older one that waits. The oldest ready job needs no such room: for it younger ones are
// preempted (their KV is dropped and computed again later), and so is what an admitted job needs
// to grow. Jobs that are not ready yield their KV to any that are. The core takes no job that would
// not fit alone, so the oldest ready one always progresses. Where pages are being moved to or from
// the device, it may have to wait for that first.
//
// Within a step those that decode come first, by age. Then prompts: by what their tenants have had
// here so far (turns.h), then by age. So what a tenant's prompt waits for is bounded by the rows
// that others are behind it, not by the prompts that others have; and a prompt whose tenant is
// behind those it meets has the rest of the step, not a chunk of it, and by more than a step alone.
#pragma once
#include <vector>

#include "worker/sequence.h"
#include "worker/turns.h"

namespace limpet::worker {

// What the scheduler may do to sessions; the core's tables implement it.
enum class Evict : uint8_t { done, later, nothing };
enum class Restore : uint8_t { begun, later, nothing };

class SessionKv {
 public:
  virtual ~SessionKv() = default;
  virtual Session& of(const Job& job) = 0;
  // Takes the device's KV from the session that has been idle longest: what of it stands below the
  // device stays. later: pages will come free when a move ends.
  virtual Evict evict_idle() = 0;
  virtual void drop_kv(Session& session) = 0;  // of the device
  // Begins to bring what stands below the device to the session's sequence, which has its pages.
  // nothing: the sequence lacks nothing that stands there. later: it is being moved.
  virtual Restore restore(Session& session) = 0;
  virtual bool moving() const = 0;  // something moves: there will be other pages then
  virtual int64_t idle_pages() const = 0;  // at most so many would come free by that
};

struct ScheduledRow {
  Job* job = nullptr;
  int64_t tokens = 0;  // the next tokens of the session without KV
};

struct Plan {
  std::vector<ScheduledRow> rows;  // decode rows (one token left), then prefill chunks
  std::vector<Job*> admitted;      // in this turn
  std::vector<Job*> preempted;     // had started, and lost their KV
};

class Scheduler {
 public:
  Scheduler(engine::KvCache& kv, int32_t token_budget, int32_t prefill_chunk);

  // `jobs`: all that have not ended, oldest first. Changes the stage of those that wait or are
  // admitted; creates, fills (shared prefixes), reserves and destroys sequences.
  Plan plan(const std::vector<Job*>& jobs, SessionKv& sessions);

  // Tokens of the session that have no KV; at least one for a job that is ready.
  int64_t missing(const Session& session) const;

 private:
  bool admit(Job& job, bool oldest, const std::vector<Job*>& jobs, SessionKv& sessions, Plan& out);
  bool make_room(Job& job, int64_t tokens, const std::vector<Job*>& jobs, SessionKv& sessions,
                 Plan& out);
  void preempt(Job& job, SessionKv& sessions, Plan& out);
  void add_prompts(std::vector<Job*> prompts, int64_t left, SessionKv& sessions, Plan& out) const;

  engine::KvCache& kv_;
  int64_t token_budget_;
  int64_t prefill_chunk_;
  Turns turns_;
};

}  // namespace limpet::worker
