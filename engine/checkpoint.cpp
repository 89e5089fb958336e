#include "engine/checkpoint.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <thread>

namespace limpet::engine {
namespace {

constexpr size_t kMaxFiles = 4096;
constexpr uintmax_t kMaxIndexBytes = 64u << 20;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

// The files that the index names; each must be a plain name within the folder.
std::set<std::string> indexed_files(const std::string& path) {
  if (std::filesystem::file_size(path) > kMaxIndexBytes) {
    throw std::runtime_error(path + ": larger than 64 MiB");
  }
  std::ifstream in(path, std::ios::binary);
  const auto json = nlohmann::json::parse(in, nullptr, false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    throw std::runtime_error(path + ": no weight_map in it");
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (!name.ends_with(".safetensors") || name.find('/') != std::string::npos) {
      throw std::runtime_error(path + ": weight_map names no safetensors file of this folder");
    }
    names.insert(name);
  }
  if (names.empty() || names.size() > kMaxFiles) {
    throw std::runtime_error(path + ": weight_map names no file, or too many");
  }
  return names;
}

uint64_t hash_of(const SafeTensors& file, uint64_t hash) {
  constexpr size_t kSample = 256, kSamples = 16;
  for (const auto& [tensor_name, t] : file.tensors()) {
    hash = hash_bytes(tensor_name, hash);
    hash = hash_bytes(name(t.type), hash);
    hash = hash_bytes(shape_text(t.shape), hash);
    const std::string_view bytes(reinterpret_cast<const char*>(t.data.data()), t.data.size());
    const size_t stride = std::max(bytes.size() / kSamples, kSample);
    for (size_t at = 0; at < bytes.size(); at += stride) {
      hash = hash_bytes(bytes.substr(at, kSample), hash);
    }
  }
  return hash;
}

// Draw i of the stream that begins with `first` (SplitMix64).
uint64_t random_bits(uint64_t first, size_t i) {
  uint64_t z = first + (i + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Calls work(begin, end) for parts of [0, count), on several threads when there is much to do.
template <typename Work>
void in_parallel(size_t count, const Work& work) {
  constexpr size_t kWorthAThread = 1 << 20;
  const size_t most = std::max(1u, std::thread::hardware_concurrency());
  const size_t parts = std::clamp<size_t>(count / kWorthAThread, 1, most);
  std::vector<std::jthread> threads;
  for (size_t i = 1; i < parts; ++i) {
    threads.emplace_back([&, i] { work(count * i / parts, count * (i + 1) / parts); });
  }
  work(0, count / parts);
}

uint16_t to_bf16(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

WeightData random_weight(const hir::WeightDecl& decl, uint64_t seed) {
  size_t elements = 1;
  for (const int64_t d : decl.shape) elements *= static_cast<size_t>(d);
  auto values = std::make_shared<std::vector<uint16_t>>(elements);
  const bool norm = decl.name.find("norm.weight") != std::string::npos;
  const uint64_t first = hash_bytes(decl.name, seed ^ 0xcbf29ce484222325ull);
  in_parallel((elements + 3) / 4, [&](size_t begin, size_t end) {
    for (size_t quad = begin; quad < end; ++quad) {
      uint64_t bits = random_bits(first, quad);
      for (size_t j = 4 * quad; j < std::min(4 * quad + 4, elements); ++j, bits >>= 16) {
        // Uniform in ±0.0346: a standard deviation of 0.02.
        const float u = (static_cast<float>(bits & 0xffffu) - 32767.5f) * (0.0346f / 32768.0f);
        (*values)[j] = to_bf16(norm ? 1.0f : u);
      }
    }
  });
  WeightData data;
  data.tensor = {decl.name, StoredType::bf16, decl.shape, std::as_bytes(std::span(*values))};
  data.owned = std::move(values);
  return data;
}

}  // namespace

uint64_t hash_bytes(std::string_view bytes, uint64_t hash) {
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return hash;
}

Checkpoint Checkpoint::open(const std::string& dir) {
  Checkpoint c;
  std::set<std::string> names = {"model.safetensors"};
  if (!std::filesystem::exists(dir + "/model.safetensors")) {
    const std::string index = dir + "/model.safetensors.index.json";
    if (!std::filesystem::exists(index)) {
      throw std::runtime_error("no weights in " + dir + ": neither model.safetensors nor "
                               "model.safetensors.index.json is there");
    }
    names = indexed_files(index);
  }
  for (const std::string& name : names) {
    c.files_.push_back(SafeTensors::open(dir + "/" + name));
    c.fingerprint_ = hash_of(c.files_.back(), c.fingerprint_);
  }
  return c;
}

Checkpoint Checkpoint::random(uint64_t seed) {
  Checkpoint c;
  c.seed_ = seed;
  c.fingerprint_ = hash_bytes("random " + std::to_string(seed));
  return c;
}

WeightData Checkpoint::get(const hir::WeightDecl& decl) const {
  if (seed_) return random_weight(decl, *seed_);
  for (const SafeTensors& file : files_) {
    const StoredTensor* t = file.find(decl.name);
    if (t == nullptr) continue;
    if (t->shape != decl.shape) {
      throw std::runtime_error(file.path() + ": tensor '" + decl.name + "' is " +
                               shape_text(t->shape) + ", but config.json makes it " +
                               shape_text(decl.shape));
    }
    if (t->type != StoredType::bf16 && t->type != StoredType::f32 && t->type != StoredType::f16) {
      throw std::runtime_error(file.path() + ": tensor '" + decl.name + "' has the dtype " +
                               std::string(name(t->type)) + "; F32, F16 and BF16 are supported");
    }
    return {*t, nullptr};
  }
  throw std::runtime_error(files_.front().path() + ": there is no tensor '" + decl.name +
                           "', which the architecture needs");
}

}  // namespace limpet::engine
