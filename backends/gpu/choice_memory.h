// What all backends of a process know of their kernels' choices, and the file that keeps them.
//
// The one thing below main that is the whole process's: two engines on one card must give the same
// bits, and bits depend on what was chosen.
#pragma once
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backends/gpu/kernel_choice.h"

namespace limpet {

// Any thread.
class ChoiceMemory {
 public:
  static ChoiceMemory& of_process();

  std::optional<ChoiceTable::Names> find(const std::string& key);
  void put(const std::string& key, ChoiceTable::Names names);
  // Reads the file, which may be missing, writes there what it lacks, and from now on what is put.
  // What the process knows stays as it is: bits depend on it. Gives what is wrong with the file, or
  // nothing; one that cannot be read is written anew.
  std::string keep_in(const std::string& path);
  // Adds a line for whoever asks for news(). Of more than 256 the first are kept.
  void tell(std::string line);
  // The lines since the last time: what was told, and that the file could not be written.
  std::vector<std::string> news();
  ChoiceTable known();
  void forget();  // all, and the file

 private:
  void add_news(std::string line);
  void write();

  std::mutex lock_;
  ChoiceTable table_;
  std::string path_;
  std::vector<std::string> news_;
};

}  // namespace limpet
