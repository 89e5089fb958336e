#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>

#include "clients/tokenize/tokenize.h"

namespace limpet::client {

int tokenize_main(int argc, char** argv) {
  CLI::App app(
      "Text to token ids: JSON lines on stdin, {\"text\": \"...\"} to {\"ids\": [...]};\n"
      "with --decode {\"ids\": [...]} to {\"text\": \"...\"}. Special tokens that are written in\n"
      "the text are found, and those that tokenizer.json's post-processor puts around are added.",
      "limpet tokenize");
  std::string model;
  TokenizeOptions options;
  bool no_special = false;
  app.add_option("--model", model, "folder with a tokenizer.json")->required()->type_name("DIR");
  app.add_flag("--no-special", no_special, "without what the post-processor puts around");
  app.add_flag("--decode", options.decode, "ids to text");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    std::cerr << "limpet tokenize: " << e.what() << "; see --help\n";
    return 2;
  }
  options.with_special = !no_special;
  try {
    std::ios::sync_with_stdio(false);
    const auto tokenizer = engine::Tokenizer::load(model);
    tokenize_lines(tokenizer, std::cin, std::cout, options);
  } catch (const std::exception& e) {
    std::cerr << "limpet tokenize: " << e.what() << "\n";
    return 1;
  }
  return 0;
}

}  // namespace limpet::client
