// A safetensors file, mapped and validated: 8 bytes header length, a JSON header, raw tensors.
// Format: https://github.com/huggingface/safetensors (little-endian, no holes, no overlap).
//
// open() checks everything that the header claims before a tensor can be seen: sizes, dtypes,
// shapes against byte counts, offsets in range, ascending without hole or overlap. The header is
// bounded (25 MiB, 262144 tensors). Data may stand at any address, as the format promises no
// alignment.
// Throws std::runtime_error that names the file and what is wrong with it.
// Immutable after open(); any thread may read. Spans live as long as the object.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace limpet::engine {

enum class StoredType : uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };
int64_t bytes_of(StoredType type);
std::string_view name(StoredType type);  // as the format writes it: "BF16"

struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
  int64_t elements() const {
    return static_cast<int64_t>(data.size()) / bytes_of(type);
  }
};

class SafeTensors {
 public:
  static SafeTensors open(const std::string& path);
  SafeTensors(SafeTensors&&) noexcept;
  SafeTensors& operator=(SafeTensors&&) noexcept;
  ~SafeTensors();

  const StoredTensor* find(std::string_view name) const;  // nullptr when there is none
  const StoredTensor& at(std::string_view name) const;    // throws, naming file and tensor
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  const std::string& path() const { return path_; }

 private:
  struct Mapping;
  SafeTensors();
  std::string path_;
  std::unique_ptr<Mapping> mapping_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

// Lets the system take back the memory of mapped bytes that will not be read soon; reading them
// again reads the file again.
void release_pages(const void* from, size_t bytes);

// Elements as float32; f32, f16 and bf16 are converted exactly, other types throw.
std::vector<float> to_float(const StoredTensor& tensor);
// Elements of an integer tensor (i32 or i64); others throw, and so does an id beyond int32.
std::vector<int32_t> to_int(const StoredTensor& tensor);

}  // namespace limpet::engine
