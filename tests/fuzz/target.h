// A fuzz target: what runs on any bytes, and bytes to begin with. What a target finds wrong, it
// aborts on. libfuzzer.cpp and replay.cpp run them; the project's root is the working directory.
#pragma once
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace limpet::fuzz {

struct Target {
  bool (*run)(std::string_view input);  // whether it was accepted, at least in part
  std::vector<std::string> (*seeds)();
};

extern const Target kWire, kTokenizer, kChatTemplate, kSafetensors, kConfig, kJournal,
    kBatchLines, kKernelChoices;

inline void expect(bool fine) {
  if (!fine) std::abort();
}
std::string read_file(const std::string& path);  // throws when it cannot

}  // namespace limpet::fuzz
