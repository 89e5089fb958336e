#include "engine/checkpoint.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>

#include "engine/printable.h"

namespace limpet::engine {
namespace {

constexpr size_t kMaxFiles = 4096;
constexpr uintmax_t kMaxIndexBytes = 64u << 20;

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

// Which file of the folder has which tensor, as the index says; each a plain name.
std::map<std::string, std::string> read_index(const std::string& path) {
  if (std::filesystem::file_size(path) > kMaxIndexBytes) {
    throw std::runtime_error(path + ": larger than 64 MiB");
  }
  std::ifstream in(path, std::ios::binary);
  const auto json = nlohmann::json::parse(in, nullptr, false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    throw std::runtime_error(path + ": no weight_map in it");
  }
  std::map<std::string, std::string> file_of;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (!name.ends_with(".safetensors") || name.find('/') != std::string::npos) {
      throw std::runtime_error(path + ": weight_map has no safetensors file of this folder for '" +
                               printable(tensor) + "'");
    }
    file_of.emplace(tensor, name);
  }
  if (file_of.empty()) throw std::runtime_error(path + ": weight_map names no file");
  return file_of;
}

std::vector<SafeTensors> open_shards(const std::string& dir, const std::string& index) {
  const auto file_of = read_index(index);
  std::map<std::string, size_t> number;
  std::vector<SafeTensors> files;
  for (const auto& [tensor, file] : file_of) {
    if (number.contains(file)) continue;
    if (number.size() == kMaxFiles) throw std::runtime_error(index + ": too many files");
    number.emplace(file, files.size());
    files.push_back(SafeTensors::open(dir + "/" + file));
  }
  for (const auto& [tensor, file] : file_of) {
    if (files[number.at(file)].find(tensor) == nullptr) {
      throw std::runtime_error(index + ": tensor '" + printable(tensor) + "' is not in " + file +
                               "; files of different downloads may be mixed");
    }
  }
  for (const auto& [file, i] : number) {
    for (const auto& [tensor, stored] : files[i].tensors()) {
      const auto it = file_of.find(tensor);
      if (it != file_of.end() && it->second != file) {
        throw std::runtime_error(index + ": tensor '" + printable(tensor) + "' is in " + file +
                                 " and in " + it->second);
      }
    }
  }
  return files;
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
    release_pages(bytes.data(), bytes.size());
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
  const std::string single = dir + "/model.safetensors", index = single + ".index.json";
  if (std::filesystem::exists(single)) {
    c.files_.push_back(SafeTensors::open(single));
  } else if (std::filesystem::exists(index)) {
    c.files_ = open_shards(dir, index);
  } else {
    throw std::runtime_error("no weights in " + dir + ": neither model.safetensors nor "
                             "model.safetensors.index.json is there");
  }
  return c;
}

Checkpoint Checkpoint::random(uint64_t seed) {
  Checkpoint c;
  c.seed_ = seed;
  return c;
}

uint64_t Checkpoint::fingerprint() const {
  if (seed_) return hash_bytes("random " + std::to_string(*seed_));
  uint64_t hash = 0;
  for (const SafeTensors& file : files_) hash = hash_of(file, hash);
  return hash;
}

StoredTensor Checkpoint::find(const hir::WeightDecl& decl) const {
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
    return *t;
  }
  throw std::runtime_error(files_.front().path() + ": there is no tensor '" + decl.name +
                           "', which the architecture needs");
}

void Checkpoint::check(std::span<const hir::WeightDecl> decls) const {
  if (seed_) return;
  for (const hir::WeightDecl& decl : decls) find(decl);
}

WeightData Checkpoint::get(const hir::WeightDecl& decl) const {
  if (seed_) return random_weight(decl, *seed_);
  return {find(decl), nullptr};
}

}  // namespace limpet::engine
