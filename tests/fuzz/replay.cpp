// Every fuzz target over its seeds and N mutations of each, with any compiler; always the same
// ones. `fuzz_replay --write DIR` writes the seeds instead, as corpora for libFuzzer.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <random>

#include "tests/fuzz/target.h"

namespace limpet::fuzz {
namespace {

struct Named {
  const char* name;
  const Target& target;
};
const Named kAll[] = {{"wire", kWire},
                      {"tokenizer", kTokenizer},
                      {"chat_template", kChatTemplate},
                      {"safetensors", kSafetensors},
                      {"config", kConfig},
                      {"journal", kJournal},
                      {"batch_lines", kBatchLines},
                      {"kernel_choices", kKernelChoices}};

void mutate(std::string& bytes, const std::vector<std::string>& others, std::mt19937_64& random) {
  static constexpr char kTelling[] = "{}[]()\"\\,:%0-9e.|\n\xff\x7f\x80\xc3";
  for (uint64_t n = 1 + random() % 4; n > 0 && !bytes.empty(); --n) {
    const size_t at = random() % bytes.size();
    const std::string& other = others[random() % others.size()];
    switch (random() % 6) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes[at] ^= static_cast<char>(1 << random() % 8);
        break;
      case 2:
        bytes[at] = kTelling[random() % (sizeof kTelling - 1)];
        break;
      case 3:
        bytes.erase(at, 1 + random() % 16);
        break;
      case 4:
        bytes.insert(at, other, random() % (other.size() + 1), 1 + random() % 32);
        break;
      default:
        bytes.insert(at, bytes.substr(random() % bytes.size(), 1 + random() % 32));
    }
  }
  if (random() % 16 == 0) bytes.resize(random() % (bytes.size() + 1));
}

void replay(const Named& named, int mutations) {
  const std::vector<std::string> seeds = named.target.seeds();
  std::mt19937_64 random(1);
  int64_t runs = 0;
  size_t accepted = 0;  // of the seeds
  for (const std::string& seed : seeds) {
    for (int i = 0; i <= mutations; ++i) {
      std::string input = seed;
      if (i > 0) mutate(input, seeds, random);
      const bool taken = named.target.run(input);
      if (i == 0 && taken) ++accepted;
      ++runs;
    }
  }
  std::printf("%s: %zu of %zu seeds accepted, %lld runs\n", named.name, accepted, seeds.size(),
              static_cast<long long>(runs));
  expect(accepted * 2 > seeds.size());  // or what is behind the first check is never run
}

void write(const Named& named, const std::filesystem::path& folder) {
  const auto corpus = folder / named.name;
  std::filesystem::create_directories(corpus);
  int n = 0;
  for (const std::string& seed : named.target.seeds()) {
    std::ofstream out(corpus / ("seed" + std::to_string(n++)), std::ios::binary);
    if (!out.write(seed.data(), static_cast<std::streamsize>(seed.size())).flush()) {
      throw std::runtime_error("cannot write to " + corpus.string());
    }
  }
}

}  // namespace
}  // namespace limpet::fuzz

int main(int argc, char** argv) try {
  const std::string option = argc == 3 ? argv[1] : "";
  if (option != "--mutations" && option != "--write") {
    std::fprintf(stderr, "usage: fuzz_replay --mutations N | --write DIR\n");
    return 2;
  }
  for (const auto& named : limpet::fuzz::kAll) {
    if (option == "--write") {
      limpet::fuzz::write(named, argv[2]);
    } else {
      limpet::fuzz::replay(named, std::stoi(argv[2]));
    }
  }
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "fuzz_replay: %s\n", e.what());
  return 1;
}
