// A folder that goes with its test; in memory where the system has such a place, since what these
// tests ask does not depend on how long a disk takes.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace limpet::broker {

class ScratchFolder {
 public:
  ScratchFolder() {
    const std::filesystem::path in_memory = "/dev/shm";
    const bool usable = access(in_memory.c_str(), W_OK) == 0;
    path_ = ((usable ? in_memory : std::filesystem::temp_directory_path()) / "limpet-test-XXXXXX")
                .string();
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("no folder for the test");
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace limpet::broker
