#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <map>
#include <string>

#include "clients/verify/verify.h"

namespace limpet::client {
namespace {

struct Arguments {
  std::string model, golden, device = "cpu", dtype = "f32";
  int threads = 0;
  bool int8_weights = false;
  VerifyOptions options;
};

void describe(CLI::App& app, Arguments& a) {
  app.add_option("--model", a.model, "Model folder")->required();
  app.add_option("--golden", a.golden, "safetensors file of reference logits")->required();
  app.add_option("--device", a.device, "cpu, cuda:0, …")->capture_default_str();
  app.add_option("--dtype", a.dtype, "Precision of weights and KV")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  app.add_flag("--int8-weights", a.int8_weights,
               "Matrices as 8-bit integers with a scale for each row, and the tolerance of int8");
  app.add_option("--chunk", a.options.chunk, "Prefill in chunks of N tokens; 0: whole")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--batch-with", a.options.batch_with,
                 "Check in a ragged batch with N other sequences")
      ->check(CLI::Range(0, 63));
  const std::map<std::string, ReferenceRope> ropes = {{"auto", ReferenceRope::automatic},
                                                      {"f32", ReferenceRope::f32},
                                                      {"bf16", ReferenceRope::bf16}};
  app.add_option("--rope-frequencies", a.options.rope,
                 "Of the reference: f32; bf16 when its model was cast as a whole; auto: either")
      ->transform(CLI::CheckedTransformer(ropes));
  app.add_option("--threads", a.threads, "CPU threads; 0: all")->check(CLI::Range(0, 1024));
}

}  // namespace

int verify_main(int argc, char** argv) {
  Arguments a;
  CLI::App app(
      "Checks a checkpoint against reference logits; prints one JSON line. By default it runs\n"
      "with float32 rotary frequencies, as serving does, and if that fails once more with ones\n"
      "that are rounded to bf16, as a reference has them whose model was cast to bf16 as a whole:\n"
      "\"rope_frequencies\" in the line says with which of them the figures were found.",
      "limpet verify");
  describe(app, a);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    std::cerr << "limpet verify: " << e.what() << "; see --help" << std::endl;
    return 2;
  }
  try {
    const Golden golden = load_golden(a.golden);
    auto options = verify_engine_options(golden, a.options);
    options.model_dir = a.model;
    options.device = a.device;
    options.threads = a.threads;
    options.int8_weights = a.int8_weights;
    options.precision = a.dtype == "f32" ? engine::Precision::f32 : engine::Precision::bf16;
    const VerifyReport report = verify_checkpoint(options, golden, a.options);
    std::cout << report.json(options.precision) << std::endl;
    return report.pass(options.precision) ? 0 : 1;
  } catch (const std::exception& e) {
    std::cerr << "limpet verify: " << e.what() << std::endl;
    return 1;
  }
}

}  // namespace limpet::client
