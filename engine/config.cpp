#include "engine/config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "engine/checkpoint.h"
#include "engine/models/architecture.h"
#include "engine/printable.h"

namespace limpet::engine {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxHeadDim = 256;  // what the attention ops hold
constexpr size_t kMaxText = 4u << 20;  // of a config file, bytes

// One JSON object with typed, bounded access; every refusal names the file and the key.
class Fields {
 public:
  Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {}

  [[noreturn]] void refuse(const std::string& what) const {
    throw std::runtime_error(path_ + ": " + what);
  }
  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  // There, or left out; what is there as null is neither.
  bool says_or_omits(const char* key) const { return !object_.contains(key) || has(key); }
  bool zero(const char* key) const { return has(key) && object_[key] == 0; }
  const Json& operator[](const char* key) const { return object_[key]; }

  int64_t integer(const char* key, int64_t low, int64_t high,
                  std::optional<int64_t> fallback = {}) const {
    if (!has(key)) return fallback ? *fallback : missing(key);
    const Json& v = object_[key];
    if (!v.is_number_integer()) refuse(std::string(key) + " must be a whole number");
    const auto n = v.get<int64_t>();
    if (n < low || n > high) {
      refuse(std::string(key) + " is " + std::to_string(n) + ", outside of " +
             std::to_string(low) + "…" + std::to_string(high));
    }
    return n;
  }
  double number(const char* key, std::optional<double> fallback = {}) const {
    if (!has(key)) return fallback ? *fallback : static_cast<double>(missing(key));
    if (!object_[key].is_number()) refuse(std::string(key) + " must be a number");
    const auto n = object_[key].get<double>();
    if (!std::isfinite(n) || n <= 0) refuse(std::string(key) + " must be above 0");
    return n;
  }
  bool flag(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!object_[key].is_boolean()) refuse(std::string(key) + " must be true or false");
    return object_[key].get<bool>();
  }
  std::string text(const char* key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    if (!object_[key].is_string()) refuse(std::string(key) + " must be a string");
    return printable(object_[key].get_ref<const std::string&>());
  }
  Fields object(const char* key) const {
    if (!object_[key].is_object()) refuse(std::string(key) + " must be an object");
    return {object_[key], path_};
  }

 private:
  [[noreturn]] int64_t missing(const char* key) const {
    refuse(std::string(key) + " is missing");
  }
  const Json& object_;
  std::string path_;
};

[[noreturn]] void refuse_size(const std::string& path) {
  throw std::runtime_error(path + ": larger than 4 MiB");
}

std::string read_text(const std::string& path) {
  // Looked at before it is opened: a pipe would block, a device would never end.
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw std::runtime_error(path + ": not a regular file");
  }
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  const auto size = in ? static_cast<std::streamoff>(in.tellg()) : -1;
  if (size < 0) throw std::runtime_error("cannot read " + path + "; is this a model folder?");
  if (static_cast<size_t>(size) > kMaxText) refuse_size(path);
  std::string text(static_cast<size_t>(size), '\0');
  in.seekg(0).read(text.data(), size);
  if (in.gcount() != size) throw std::runtime_error("cannot read " + path + " to its end");
  return text;
}

Json parse_object(std::string_view text, const std::string& path) {
  if (text.size() > kMaxText) refuse_size(path);
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) throw std::runtime_error(path + ": not a JSON object");
  return json;
}

void refuse_partial_rotation(const Fields& f) {
  if (f.has("partial_rotary_factor") && f.number("partial_rotary_factor") != 1.0) {
    f.refuse("partial_rotary_factor other than 1 is not supported");
  }
}

// The length that the model was trained for, where scaling goes on from it. A value beside the
// rotary settings goes before one among them, and the longest position stands for both.
double original_context(const Fields& config, const Fields& f) {
  constexpr const char* kKey = "original_max_position_embeddings";
  return config.number(kKey, f.number(kKey, config.number("max_position_embeddings")));
}

void parse_yarn(const Fields& config, const Fields& f, RopeConfig& rope) {
  rope.original_context = original_context(config, f);
  const double longest = config.number("max_position_embeddings");
  rope.factor = f.number("factor", longest / rope.original_context);
  rope.beta_fast = f.number("beta_fast", rope.beta_fast);
  rope.beta_slow = f.number("beta_slow", rope.beta_slow);
  rope.truncate = f.flag("truncate", true);
  const auto scale = [&](const char* key) { return f.zero(key) ? 0.0 : f.number(key, 0.0); };
  rope.attention_factor = f.number(
      "attention_factor",
      yarn_attention_factor(rope.factor, scale("mscale"), scale("mscale_all_dim")));
  if (rope.theta <= 1) f.refuse("rope_theta must be above 1 for yarn");
  if (rope.beta_fast < rope.beta_slow) f.refuse("beta_fast must not be below beta_slow");
}

// One object of rotary settings; `theta` where it says none.
RopeConfig parse_rope_object(const Fields& config, const Fields& f, double theta) {
  RopeConfig rope;
  rope.theta = f.number("rope_theta", theta);
  refuse_partial_rotation(f);
  const std::string kind = f.text("rope_type", f.text("type", "default"));
  if (kind == "default") return rope;
  if (kind == "linear") {
    rope.kind = RopeKind::linear;
    rope.factor = f.number("factor");
  } else if (kind == "llama3") {
    rope.kind = RopeKind::llama3;
    rope.factor = f.number("factor");
    rope.low_freq_factor = f.number("low_freq_factor");
    rope.high_freq_factor = f.number("high_freq_factor");
    rope.original_context = original_context(config, f);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      f.refuse("high_freq_factor must be above low_freq_factor");
    }
  } else if (kind == "yarn") {
    rope.kind = RopeKind::yarn;
    parse_yarn(config, f, rope);
  } else if (kind == "dynamic") {
    rope.kind = RopeKind::dynamic;
    rope.factor = f.number("factor");
    rope.original_context = config.number("max_position_embeddings");
    if (rope.factor < 1) f.refuse("the factor of dynamic rotary scaling must be at least 1");
  } else {
    f.refuse("rope scaling '" + kind +
             "' is not supported (default, linear, llama3, yarn and dynamic are)");
  }
  return rope;
}

RopeConfig parse_rope(const Fields& config) {
  refuse_partial_rotation(config);
  const double theta = config.number("rope_theta", RopeConfig{}.theta);
  RopeConfig older{.theta = theta};
  if (config.has("rope_scaling")) {
    older = parse_rope_object(config, config.object("rope_scaling"), theta);
  }
  if (!config.has("rope_parameters")) return older;
  const Fields f = config.object("rope_parameters");
  for (const auto& [key, value] : config["rope_parameters"].items()) {
    if (value.is_object()) {
      f.refuse("rope_parameters of a layer type ('" + printable(key) + "') are not supported");
    }
  }
  const RopeConfig newer = parse_rope_object(config, f, theta);
  if (config.has("rope_theta") && newer.theta != theta) {
    f.refuse("rope_theta and rope_parameters disagree");
  }
  if (config.has("rope_scaling") && newer != older) {
    f.refuse("rope_scaling and rope_parameters disagree");
  }
  return newer;
}

// Positions that the scaling reaches beyond those that the file counts.
int64_t scaled_context(const ModelConfig& c) {
  const RopeConfig& r = c.rope;
  double reach = 0;
  if (r.kind == RopeKind::linear) reach = r.factor * static_cast<double>(c.max_context);
  if (r.kind == RopeKind::yarn || r.kind == RopeKind::dynamic) {
    reach = r.factor * r.original_context;
  }
  constexpr double kMost = 1 << 28;
  return std::max(c.max_context, static_cast<int64_t>(std::min(reach, kMost)));
}

// Newer files say it layer by layer; older ones by a window and the first layer that has it.
std::vector<int64_t> parse_windows(const Fields& f, const ModelConfig& c) {
  std::vector<int64_t> windows(static_cast<size_t>(c.layers), 0);
  const bool mistral = c.architecture.starts_with("Mistral");
  // Left out is not null: null means none.
  const bool used = f.says_or_omits("sliding_window") && f.flag("use_sliding_window", mistral);
  const int64_t window =
      used && c.architecture != "LlamaForCausalLM" ? f.integer("sliding_window", 1, 1 << 30, 4096)
                                                   : 0;
  if (f.has("layer_types")) {
    const auto& types = f["layer_types"];
    if (!types.is_array() || types.size() != windows.size()) {
      f.refuse("layer_types must name every layer");
    }
    for (size_t i = 0; i < windows.size(); ++i) {
      const std::string type = types[i].is_string() ? types[i].get<std::string>() : "?";
      if (type == "sliding_attention" && window > 0) {
        windows[i] = window;
      } else if (type != "full_attention") {
        f.refuse("layer_types: '" + printable(type, 64) + "' is not supported here");
      }
    }
    return windows;
  }
  const int64_t first = mistral ? 0 : f.integer("max_window_layers", 0, 1 << 20, 28);
  for (size_t i = 0; i < windows.size(); ++i) {
    if (static_cast<int64_t>(i) >= first) windows[i] = window;
  }
  return windows;
}

std::vector<Token> parse_eos(const Fields& f) {
  std::vector<Token> eos;
  if (!f.has("eos_token_id")) return eos;
  const Json& v = f["eos_token_id"];
  const Json list = v.is_array() ? v : Json::array({v});
  if (list.size() > 64) f.refuse("eos_token_id has too many entries");
  for (const Json& e : list) {
    if (!e.is_number_unsigned() || e.get<uint64_t>() > std::numeric_limits<Token>::max()) {
      f.refuse("eos_token_id must be a token id or a list of them");
    }
    eos.push_back(static_cast<Token>(e.get<uint64_t>()));
  }
  return eos;
}

std::string parse_architecture(const Fields& f) {
  if (!f.has("architectures") || !f["architectures"].is_array() ||
      f["architectures"].size() != 1 || !f["architectures"][0].is_string()) {
    f.refuse("architectures must name one architecture");
  }
  return printable(f["architectures"][0].get_ref<const std::string&>());
}

void parse_sizes(const Fields& f, ModelConfig& c) {
  c.vocab = f.integer("vocab_size", 1, 1 << 24);
  c.hidden = f.integer("hidden_size", 1, 1 << 17);
  c.intermediate = f.integer("intermediate_size", 1, 1 << 20);
  c.layers = f.integer("num_hidden_layers", 1, 1024);
  c.heads = f.integer("num_attention_heads", 1, 4096);
  // Only Llama's old files leave it out, and mean one KV head for each query head.
  const bool all = c.architecture == "LlamaForCausalLM" && !f.has("num_key_value_heads");
  c.kv_heads = all ? c.heads : f.integer("num_key_value_heads", 1, 4096);
  const int64_t usual = c.architecture == "Qwen3ForCausalLM" ? 128 : c.hidden / c.heads;
  c.head_dim = f.integer("head_dim", 0, 1 << 20, usual);
  if (c.head_dim < 2 || c.head_dim > kMaxHeadDim) {
    f.refuse("head_dim " + std::to_string(c.head_dim) + " is not supported (2…" +
             std::to_string(kMaxHeadDim) + ")");
  }
  c.max_context = f.integer("max_position_embeddings", 1, 1 << 28);
  c.prediction_layers = f.integer("num_nextn_predict_layers", 0, 16, 0);
  if (c.heads % c.kv_heads != 0) {
    f.refuse("num_attention_heads must be a multiple of num_key_value_heads");
  }
  if (c.head_dim % 2 != 0) f.refuse("head_dim must be even");
}

}  // namespace

ModelConfig parse_config(std::string_view text, const std::string& path) {
  const Json json = parse_object(text, path);
  const Fields f(json, path);
  ModelConfig c;
  c.text_hash = hash_bytes(text);
  c.architecture = parse_architecture(f);
  find_architecture(c.architecture);  // refused by name before anything else is asked of it
  if (f.has("quantization_config")) f.refuse("quantized weights are not supported");
  const std::string act = f.text("hidden_act", "silu");
  if (act != "silu" && act != "swish") {
    f.refuse("hidden_act '" + act + "' is not supported (silu is)");
  }
  parse_sizes(f, c);
  c.norm_eps = f.number("rms_norm_eps", 1e-6);
  c.rope = parse_rope(f);
  c.max_context = scaled_context(c);
  c.tied_embeddings = f.flag("tie_word_embeddings", false);
  c.attention_bias = f.flag("attention_bias", c.architecture == "MiMoForCausalLM");
  c.mlp_bias = f.flag("mlp_bias", false);
  c.window = parse_windows(f, c);
  c.eos = parse_eos(f);
  return c;
}

ModelConfig load_config(const std::string& dir) {
  const std::string path = dir + "/config.json";
  ModelConfig config = parse_config(read_text(path), path);
  const std::string generation = dir + "/generation_config.json";
  if (std::error_code error; std::filesystem::exists(generation, error)) {
    const Json json = parse_object(read_text(generation), generation);
    const auto eos = parse_eos(Fields(json, generation));
    if (!eos.empty()) config.eos = eos;
  }
  for (const Token t : config.eos) {
    if (t >= config.vocab) throw std::runtime_error(dir + ": an eos_token_id is not in the vocab");
  }
  return config;
}

}  // namespace limpet::engine
