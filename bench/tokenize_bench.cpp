// Text to ids and back, on one thread.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>

#include "bench/engine_bench.h"
#include "engine/tokenizer.h"

namespace limpet::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Words of many lengths, numbers, punctuation and some letters that are not ASCII.
std::string ordinary(size_t bytes) {
  static constexpr const char* kWords[] = {
      "the", "of", "limpet", "returns", "home", "after", "grazing", "on", "a", "rock", "its",
      "shell", "fits", "scar", "sessions", "keep", "their", "memory", "where", "it", "was",
      "computed", "and", "nothing", "acknowledged", "is", "lost", "I", "don't", "internationally",
      "42", "1999", "3.14", "Z\u00fcrich", "caf\u00e9", "\u6771\u4eac", "na\u00efve", "OK"};
  static constexpr const char* kBetween[] = {" ", " ", " ", " ", " ", " ", ", ", ". ", "\n", " (",
                                             ") ", ": ", "\n\n", " \u2014 "};
  std::mt19937 random(11);
  std::string out;
  while (out.size() < bytes) {
    out += kWords[random() % std::size(kWords)];
    out += kBetween[random() % std::size(kBetween)];
  }
  return out;
}

std::string without_spaces(size_t bytes) {
  std::mt19937 random(12);
  std::string out;
  while (out.size() < bytes) out += static_cast<char>('a' + random() % 26);
  return out;
}

// The best of some runs, seconds.
double fastest(int runs, const std::function<void()>& work) {
  double best = 1e9;
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

void measure(const engine::Tokenizer& tokenizer, const char* what, const std::string& text) {
  engine::TokenIds ids;
  const double in = fastest(3, [&] { ids = tokenizer.encode(text, true); });
  if (!ids.ok()) throw std::runtime_error(ids.error);
  const double out = fastest(3, [&] { tokenizer.decode(ids.ids, false); });
  const auto bytes = static_cast<double>(text.size());
  const nlohmann::ordered_json line = {
      {"bench", "tokenize"},          {"text", what},
      {"bytes", text.size()},         {"tokens", ids.ids.size()},
      {"encode_seconds", in},         {"encode_bytes_per_second", bytes / in},
      {"decode_bytes_per_second", bytes / out}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace

int tokenize_bench(int argc, char** argv) {
  std::string model = "models/limpet-tiny";
  size_t bytes = 1 << 20;
  CLI::App app{"Text to ids and back on one thread: ordinary text, and text without a space"};
  app.add_option("--model", model, "folder with tokenizer.json")->capture_default_str();
  app.add_option("--bytes", bytes, "of text")->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const auto tokenizer = engine::Tokenizer::load(model);
  measure(tokenizer, "ordinary", ordinary(bytes));
  measure(tokenizer, "without spaces", without_spaces(bytes));
  measure(tokenizer, "one letter", std::string(bytes, 'a'));
  return 0;
}

}  // namespace limpet::bench
