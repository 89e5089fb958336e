// Which tensors a folder has, and what is wrong with it, told before any of them is read.
#include "engine/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/engine.h"

namespace limpet::engine {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest()
      : dir_(fs::temp_directory_path() / ("limpet_checkpoint_" + std::to_string(::getpid()))) {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  ~CheckpointTest() override { fs::remove_all(dir_); }

  // Tensors of BF16 by name, each [2, 3].
  void write(const std::string& file, const std::vector<std::string>& names,
             const std::string& dtype = "BF16") {
    json header = json::object();
    size_t at = 0;
    for (const std::string& name : names) {
      header[name] = {{"dtype", dtype}, {"shape", {2, 3}}, {"data_offsets", {at, at + 12}}};
      at += 12;
    }
    const std::string text = header.dump();
    const uint64_t n = text.size();
    std::ofstream out(dir_ / file, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&n), 8);
    out << text << std::string(at, '\1');
  }
  void write_index(const json& weight_map) {
    std::ofstream(dir_ / "model.safetensors.index.json") << json{{"weight_map", weight_map}};
  }
  std::string error() {
    try {
      const Checkpoint c = Checkpoint::open(dir_);
      c.check(wanted_);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  }
  void expect_error(const std::string& part) {
    const std::string said = error();
    EXPECT_NE(said.find(part), std::string::npos) << "wanted: " << part << "\nsaid: " << said;
  }

  fs::path dir_;
  std::vector<hir::WeightDecl> wanted_ = {{"a", {2, 3}}, {"b", {2, 3}}};
};

TEST_F(CheckpointTest, AFolderWithoutWeightsSaysWhatIsMissing) {
  expect_error("neither model.safetensors nor model.safetensors.index.json");
}

TEST_F(CheckpointTest, ShardsAreFoundByTheirIndex) {
  write("one.safetensors", {"a"});
  write("two.safetensors", {"b"});
  write_index({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  EXPECT_EQ(error(), "");
  const Checkpoint c = Checkpoint::open(dir_);
  EXPECT_EQ(c.get(wanted_[1]).tensor.data.size(), 12u);
  const uint64_t before = c.fingerprint();
  write("two.safetensors", {"b", "c"});
  EXPECT_NE(Checkpoint::open(dir_).fingerprint(), before);
}

TEST_F(CheckpointTest, AnIndexThatLiesIsAnErrorThatNamesTheTensor) {
  write("one.safetensors", {"a"});
  write("two.safetensors", {"b"});
  write_index({{"a", "one.safetensors"}, {"b", "one.safetensors"}});
  expect_error("tensor 'b' is not in one.safetensors");
  write("one.safetensors", {"a", "b"});
  write_index({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  expect_error("tensor 'b' is in one.safetensors and in two.safetensors");
  write_index({{"a", "one.safetensors"}, {"b", "three.safetensors"}});
  expect_error("three.safetensors");
  write_index({{"a", "../one.safetensors"}});
  expect_error("for 'a'");
  write_index({{"a", 5}});
  expect_error("for 'a'");
  write_index(json::object());
  expect_error("names no file");
  std::ofstream(dir_ / "model.safetensors.index.json") << "{";
  expect_error("no weight_map");
}

TEST_F(CheckpointTest, EveryTensorIsCheckedBeforeOneIsRead) {
  write("model.safetensors", {"a", "b"});
  EXPECT_EQ(error(), "");
  wanted_[1].shape = {3, 2};
  expect_error("tensor 'b' is [2, 3], but config.json makes it [3, 2]");
  wanted_[1] = {"z", {2, 3}};
  expect_error("no tensor 'z'");
  wanted_[1] = {"b", {2, 3}};
  write("model.safetensors", {"a", "b"}, "I16");
  expect_error("tensor 'a' has the dtype I16");
}

TEST_F(CheckpointTest, ReleasedBytesAreReadAgain) {
  write("model.safetensors", {"a", "b"});
  const Checkpoint c = Checkpoint::open(dir_);
  const auto data = c.get(wanted_[0]).tensor.data;
  const std::vector<std::byte> before(data.begin(), data.end());
  release_pages(data.data(), data.size());
  release_pages(nullptr, 0);
  EXPECT_EQ(std::memcmp(data.data(), before.data(), before.size()), 0);
}

// A config whose sizes are not those of the weights, and dtypes of quantized files.
TEST_F(CheckpointTest, AConfigThatLiesAboutSizesIsRefused) {
  for (const char* file : {"config.json", "model.safetensors"}) {
    fs::copy(fs::path("tests/golden/llama-gqa") / file, dir_ / file);
  }
  const json honest = json::parse(std::ifstream(dir_ / "config.json"));
  const auto error_with = [&](const char* key, int64_t value) -> std::string {
    json lie = honest;
    lie[key] = value;
    std::ofstream(dir_ / "config.json") << lie;
    try {
      Engine::open({.model_dir = dir_.string(), .kv_pages = 4});
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  };
  const std::map<const char*, int64_t> lies = {
      {"vocab_size", 1 << 24},       {"hidden_size", 1 << 17},  {"num_hidden_layers", 900},
      {"intermediate_size", 353},    {"head_dim", 34},          {"num_attention_heads", 4096},
      {"num_key_value_heads", 4}};
  for (const auto& [key, value] : lies) {
    const std::string said = error_with(key, value);
    EXPECT_NE(said.find("tensor"), std::string::npos) << key << ": " << said;
    EXPECT_EQ(said.find('\n'), std::string::npos);
  }
  EXPECT_EQ(error_with("vocab_size", honest["vocab_size"]), "");
}

}  // namespace
}  // namespace limpet::engine
