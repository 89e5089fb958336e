// The engine as a library: a session of two turns, the second decoded from resident KV.
//   build/bin/limpet-example-two-turns models/limpet-tiny 5 6 7 8
// The numbers are token ids of the first turn's prompt; its greedy continuation is printed, and
// then that of a second turn, with what each turn had to compute.
#include <algorithm>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace {

using limpet::Token;
using limpet::engine::Engine;
using limpet::engine::SequenceId;
using limpet::engine::StepResult;

// Appends tokens to the session and returns the greedy choice after the last of them.
Token advance(Engine& engine, SequenceId session, const std::vector<Token>& tokens) {
  if (!engine.kv().reserve(session, std::ssize(tokens))) {
    throw std::runtime_error("no free KV pages");
  }
  const StepResult r = engine.step({{session, tokens}});
  if (!r.ok()) throw std::runtime_error(r.error);
  const auto logits = r.row(0);
  return static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
}

void turn(Engine& engine, SequenceId session, const std::vector<Token>& prompt) {
  const auto rows = engine.counters().rows;
  Token next = advance(engine, session, prompt);
  for (int i = 0; i < 8; ++i) {
    std::cout << next << ' ';
    next = advance(engine, session, {next});
  }
  std::cout << " | rows computed: " << engine.counters().rows - rows
            << ", tokens resident: " << engine.kv().length(session) << '\n';
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::cerr << "usage: limpet-example-two-turns MODEL_DIR TOKEN…\n";
    return 2;
  }
  std::vector<Token> prompt;
  for (int i = 2; i < argc; ++i) prompt.push_back(std::stoi(argv[i]));
  const auto engine = Engine::open({.model_dir = argv[1], .kv_pages = 64});
  const SequenceId session = engine->kv().create(0);
  turn(*engine, session, prompt);
  turn(*engine, session, prompt);  // nothing of the first turn is computed again
  engine->kv().destroy(session);
} catch (const std::exception& e) {
  std::cerr << "limpet-example-two-turns: " << e.what() << '\n';
  return 1;
}
