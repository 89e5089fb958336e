// A client as a process: submits, resubmits, attaches, cancels; remembers all that it was shown,
// and takes no contradiction.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/world.h"

namespace limpet::sim {

class ClientProcess {
 public:
  using Send = std::function<void(ClientMessage)>;
  using Gone = std::function<void()>;

  ClientProcess(World& world, std::string tenant, Send send, Gone gone)
      : world_(world), tenant_(std::move(tenant)), send_(send), gone_(gone) {}
  ClientProcess(World& world, Send send, Gone gone) : ClientProcess(world, "", send, gone) {}

  void want(std::shared_ptr<const JobSpec> spec, int64_t in_ms);
  void cancel(const std::string& job_id, int64_t in_ms);
  void release(const std::string& session, int64_t in_ms);  // its KV goes, it stays
  // Asks for what is another tenant's: it must not be there for this one.
  void pry(const std::string& job_id, int64_t in_ms);
  void arrives(const BrokerToClient& message);
  void crash();  // forgets where its streams were; the wants are on its disk
  bool all_done() const { return open_ == 0; }
  uint64_t connection() const { return connection_; }
  const std::string& tenant() const { return tenant_; }
  std::string link() const { return "client of " + tenant_; }
  std::string first_open() const;

 private:
  // Everything but `next` is the judge's memory and outlives the process.
  struct Want {
    std::shared_ptr<const JobSpec> spec;
    bool acknowledged = false;
    bool cancelled = false;  // by us; perhaps before the job was there
    bool done = false;
    std::vector<Token> shown;
    std::string outcome;  // as first told
    int64_t next = 0;     // token wanted next by this life of the client
    int64_t due = 0;      // ask again then, if nothing has come
  };
  void ask(Want& want);
  void look_again(const std::string& job_id);
  void show(Want& want, const Tokens& m);
  void outcome(Want& want, const std::string& what, int64_t tokens);
  void refused(Want& want, const Refused& m);

  void listed(const Listed& m) const;

  World& world_;
  std::string tenant_;
  Send send_;
  Gone gone_;
  std::map<std::string, Want> wants_;
  int64_t open_ = 0;
  uint64_t connection_ = 1;
};

}  // namespace limpet::sim
