#include "engine/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>

#include <unistd.h>

namespace limpet::engine {
namespace {

nlohmann::json base() {
  return nlohmann::json::parse(R"({"architectures":["LlamaForCausalLM"],"vocab_size":100,
    "hidden_size":64,"intermediate_size":128,"num_hidden_layers":4,"num_attention_heads":4,
    "num_key_value_heads":2,"max_position_embeddings":512,"rope_theta":500000.0})");
}

std::string error_of(const nlohmann::json& json) {
  try {
    parse_config(json.dump(), "config.json");
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "";
}

TEST(Config, ReadsBothStylesOfRotarySettings) {
  auto older = base();
  older["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0},
                           {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 64}};
  auto newer = base();
  newer.erase("rope_theta");
  newer["rope_parameters"] = older["rope_scaling"];
  newer["rope_parameters"]["rope_theta"] = 500000.0;
  const auto a = parse_config(older.dump(), "a"), b = parse_config(newer.dump(), "b");
  EXPECT_EQ(a.rope.kind, RopeKind::llama3);
  EXPECT_EQ(rope_frequencies(a.rope, 16), rope_frequencies(b.rope, 16));
  EXPECT_NE(rope_frequencies(a.rope, 16),
            rope_frequencies(parse_config(base().dump(), "c").rope, 16));
}

TEST(Config, LinearScalingDividesEveryFrequency) {
  auto json = base();
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  const auto f = rope_frequencies(parse_config(json.dump(), "x").rope, 8);
  for (size_t i = 0; i < f.size(); ++i) {
    EXPECT_FLOAT_EQ(f[i], std::pow(500000.0f, -2.0f * static_cast<float>(i) / 8.0f) / 4.0f);
  }
}

// Figures computed by transformers 5.24's _compute_yarn_parameters.
TEST(Config, YarnIsReadInBothStylesWithItsDefaults) {
  auto older = base();
  older["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0},
                           {"original_max_position_embeddings", 64}};
  auto newer = base();
  newer.erase("rope_theta");
  newer["rope_parameters"] = {{"rope_type", "yarn"}, {"rope_theta", 500000.0}, {"factor", 4.0},
                              {"original_max_position_embeddings", 64}};
  const ModelConfig a = parse_config(older.dump(), "a"), b = parse_config(newer.dump(), "b");
  EXPECT_EQ(a.rope, b.rope);
  EXPECT_EQ(a.rope.kind, RopeKind::yarn);
  EXPECT_DOUBLE_EQ(a.rope.attention_factor, 0.1 * std::log(4.0) + 1);
  EXPECT_EQ(a.max_context, 512);  // the file's is longer than 4 * 64
  newer["rope_parameters"]["attention_factor"] = 1.5;
  EXPECT_DOUBLE_EQ(parse_config(newer.dump(), "b").rope.attention_factor, 1.5);
  newer["rope_parameters"]["attention_factor"] = nullptr;
  newer["rope_parameters"]["mscale"] = 1.0;
  newer["rope_parameters"]["mscale_all_dim"] = 0.5;
  EXPECT_NEAR(parse_config(newer.dump(), "b").rope.attention_factor, 1.0648, 1e-4);
  older["rope_scaling"].erase("original_max_position_embeddings");
  EXPECT_EQ(parse_config(older.dump(), "a").rope.original_context, 512);
  EXPECT_EQ(parse_config(older.dump(), "a").max_context, 2048);
}

TEST(Config, WhatIsLeftOutIsWhatTheReferenceTakes) {
  auto json = base();
  json["architectures"] = {"MistralForCausalLM"};
  EXPECT_EQ(parse_config(json.dump(), "x").window, (std::vector<int64_t>(4, 4096)));
  json["sliding_window"] = nullptr;
  EXPECT_EQ(parse_config(json.dump(), "x").window, (std::vector<int64_t>(4, 0)));
  json = base();
  json["architectures"] = {"Qwen3ForCausalLM"};
  EXPECT_EQ(parse_config(json.dump(), "x").head_dim, 128);
  json["use_sliding_window"] = true;  // max_window_layers is 28
  EXPECT_EQ(parse_config(json.dump(), "x").window, (std::vector<int64_t>(4, 0)));
  json["layer_types"] = {"full_attention", "sliding_attention", "full_attention",
                         "sliding_attention"};
  EXPECT_EQ(parse_config(json.dump(), "x").window, (std::vector<int64_t>{0, 4096, 0, 4096}));
  json["layer_types"][1] = "chunked_attention";
  EXPECT_NE(error_of(json).find("'chunked_attention'"), std::string::npos);
}

TEST(Config, DynamicScalingReachesBeyondTheTrainedLength) {
  auto json = base();
  json["rope_scaling"] = {{"type", "dynamic"}, {"factor", 4.0}};
  const ModelConfig c = parse_config(json.dump(), "x");
  EXPECT_EQ(c.rope.original_context, 512);
  EXPECT_EQ(c.max_context, 2048);
  EXPECT_EQ(rope_frequencies(c.rope, 16),
            rope_frequencies(parse_config(base().dump(), "y").rope, 16));
}

TEST(Config, Llama3KeepsShortWavesAndStretchesLongOnes) {
  const RopeConfig rope{.kind = RopeKind::llama3, .theta = 10000, .factor = 8,
                        .original_context = 8192};
  const auto f = rope_frequencies(rope, 128);
  EXPECT_FLOAT_EQ(f[0], 1.0f);
  const double last = std::pow(10000.0, -126.0 / 128.0);
  ASSERT_GT(2 * std::numbers::pi / last, 8192.0);
  EXPECT_FLOAT_EQ(f[63], static_cast<float>(last / 8));
}

TEST(Config, RefusesWhatItCannotDoByName) {
  const auto with = [](const char* key, const nlohmann::json& value) {
    auto json = base();
    json[key] = value;
    return error_of(json);
  };
  EXPECT_NE(with("rope_scaling", {{"rope_type", "longrope"}, {"factor", 4.0}}).find("'longrope'"),
            std::string::npos);
  EXPECT_NE(with("rope_scaling", {{"rope_type", "dynamic"}, {"factor", 0.5}}).find("factor"),
            std::string::npos);
  EXPECT_NE(with("rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"beta_fast", 0.5}})
                .find("beta_fast"),
            std::string::npos);
  EXPECT_NE(with("hidden_act", "gelu").find("'gelu'"), std::string::npos);
  EXPECT_NE(with("quantization_config", {{"bits", 4}}).find("quantized"), std::string::npos);
  EXPECT_NE(with("num_key_value_heads", 3).find("multiple"), std::string::npos);
  EXPECT_NE(with("vocab_size", -1).find("vocab_size"), std::string::npos);
  EXPECT_NE(with("vocab_size", "many").find("vocab_size"), std::string::npos);
  EXPECT_NE(with("rms_norm_eps", 0).find("rms_norm_eps"), std::string::npos);
  EXPECT_NE(with("head_dim", 15).find("head_dim"), std::string::npos);
  EXPECT_NE(with("layer_types", {"full_attention"}).find("layer_types"), std::string::npos);
  EXPECT_NE(with("architectures", nlohmann::json::array()).find("architectures"),
            std::string::npos);
  auto json = base();
  json.erase("hidden_size");
  EXPECT_NE(error_of(json).find("hidden_size is missing"), std::string::npos);
}

TEST(Config, HeadDimMustBeOneThatTheOpsHold) {
  auto json = base();
  const auto expect_refused = [&](const std::string& n) {
    EXPECT_NE(error_of(json).find("head_dim " + n + " is not supported (2…256)"),
              std::string::npos) << error_of(json);
  };
  json["head_dim"] = 258;
  expect_refused("258");
  json.erase("head_dim");
  json["num_attention_heads"] = 128;  // hidden / heads is 0
  expect_refused("0");
  json["num_attention_heads"] = 4;
  json["hidden_size"] = 2048;
  expect_refused("512");
  json["hidden_size"] = 60;
  EXPECT_NE(error_of(json).find("even"), std::string::npos);
  json["head_dim"] = 256;
  EXPECT_EQ(error_of(json), "");
}

TEST(Config, RotarySettingsThatItWouldMisreadAreRefused) {
  const auto refused = [](nlohmann::json json, const std::string& because) {
    const std::string error = error_of(json);
    EXPECT_NE(error.find(because), std::string::npos) << because << ": " << error;
  };
  auto json = base();
  json["rope_parameters"]["sliding_attention"] = {{"rope_theta", 10000.0}};
  refused(json, "'sliding_attention'");
  json = base();
  json["partial_rotary_factor"] = 0.5;
  refused(json, "partial_rotary_factor");
  json["partial_rotary_factor"] = 1.0;
  EXPECT_EQ(error_of(json), "");
  json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  json["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  refused(json, "rope_scaling and rope_parameters disagree");
  json["rope_parameters"]["factor"] = 4.0;
  EXPECT_EQ(error_of(json), "");
  json["rope_parameters"]["rope_theta"] = 10000.0;
  refused(json, "rope_theta and rope_parameters disagree");
}

TEST(Config, MessagesHoldNoControlCharacters) {
  auto json = base();
  json["hidden_act"] = "\x1b]0;x\x07\xc2\x9bm";
  const std::string error = error_of(json);
  EXPECT_NE(error.find("'?]0;x???m'"), std::string::npos) << error;
  json = base();
  json["architectures"] = {"\x1b[2J"};
  EXPECT_NE(error_of(json).find("'?[2J'"), std::string::npos) << error_of(json);
}

TEST(Config, OnlyRegularFilesAreRead) {
  const auto dir = std::filesystem::temp_directory_path() /
                   ("limpet_config_" + std::to_string(::getpid()));
  std::filesystem::create_directories(dir / "config.json");
  const auto error = [&]() -> std::string {
    try {
      load_config(dir);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(error().find("not a regular file"), std::string::npos) << error();
  std::filesystem::remove(dir / "config.json");
  std::ofstream(dir / "config.json") << base().dump();
  EXPECT_EQ(error(), "");
  std::filesystem::create_directories(dir / "generation_config.json");
  EXPECT_NE(error().find("not a regular file"), std::string::npos) << error();
  std::filesystem::remove_all(dir);
}

TEST(Config, SlidingWindowsFollowTheArchitecture) {
  auto json = base();
  json["sliding_window"] = 24;
  json["architectures"] = {"MistralForCausalLM"};
  EXPECT_EQ(parse_config(json.dump(), "x").window, (std::vector<int64_t>{24, 24, 24, 24}));
  json["architectures"] = {"Qwen2ForCausalLM"};
  EXPECT_EQ(parse_config(json.dump(), "x").window, (std::vector<int64_t>(4, 0)));
  json["use_sliding_window"] = true;
  json["max_window_layers"] = 3;
  EXPECT_EQ(parse_config(json.dump(), "x").window, (std::vector<int64_t>{0, 0, 0, 24}));
}

TEST(Config, LoadsTheEmbeddedModelAndItsEndTokens) {
  const ModelConfig c = load_config("models/limpet-tiny");
  EXPECT_EQ(c.architecture, "MiMoForCausalLM");
  EXPECT_EQ(c.prediction_layers, 1);
  EXPECT_EQ(c.eos, std::vector<Token>{2});
  EXPECT_TRUE(c.attention_bias);
  EXPECT_THROW(load_config("models/none"), std::runtime_error);
}

}  // namespace
}  // namespace limpet::engine
