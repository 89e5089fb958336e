// limpet-worker as a process of a bench: from the folder of this program.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "clients/cpp/client.h"

namespace limpet::bench {

class WorkerProgram {
 public:
  WorkerProgram(const std::string& name, const std::string& model, const std::string& dtype,
                const std::string& broker, const std::vector<std::string>& flags,
                int64_t threads = 1);
  ~WorkerProgram();  // kill -9
  WorkerProgram(const WorkerProgram&) = delete;
  WorkerProgram& operator=(const WorkerProgram&) = delete;
  void signal(int number);

 private:
  int pid_ = -1;
};

// Until so many are there; throws when they do not come up within a minute.
void wait_for_workers(client::Client& client, size_t wanted);

}  // namespace limpet::bench
