#include "engine/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "engine/printable.h"

namespace limpet::engine {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

// The largest models' files have some ten thousand tensors of about 130 bytes each in the header;
// these allow for all tensors of such a model in one file.
constexpr uint64_t kMaxHeader = 25u << 20;
constexpr size_t kMaxTensors = 1u << 18;
constexpr int kMaxDepth = 4;                        // the format needs three levels
constexpr size_t kMaxValues = 16 * kMaxTensors;     // of the JSON, keys included
constexpr size_t kMaxRank = 8;

struct TypeRow {
  StoredType type;
  std::string_view name;
  int64_t bytes;
};
constexpr std::array kTypes = {
    TypeRow{StoredType::f64, "F64", 8}, TypeRow{StoredType::f32, "F32", 4},
    TypeRow{StoredType::f16, "F16", 2}, TypeRow{StoredType::bf16, "BF16", 2},
    TypeRow{StoredType::i64, "I64", 8}, TypeRow{StoredType::i32, "I32", 4},
    TypeRow{StoredType::i16, "I16", 2}, TypeRow{StoredType::i8, "I8", 1},
    TypeRow{StoredType::u8, "U8", 1},   TypeRow{StoredType::boolean, "BOOL", 1}};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + ": " + what + "; the file is damaged or no safetensors file, "
                           "download it again");
}

const TypeRow& row(StoredType type) { return kTypes[static_cast<size_t>(type)]; }

int64_t unsigned_field(const std::string& path, const nlohmann::json& v, const std::string& what) {
  if (!v.is_number_unsigned() || v.get<uint64_t>() > (1ull << 62)) {
    refuse(path, what + " is no valid number");
  }
  return static_cast<int64_t>(v.get<uint64_t>());
}

// Stops at the first sign of a header that would take far more memory than its bytes.
nlohmann::json parse_header(const std::string& path, const char* text, size_t size) {
  size_t values = 0, entries = 0;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json&) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > kMaxDepth) refuse(path, "its header is nested too deep");
    if (event == Event::key && depth == 1) ++entries;
    if (entries > kMaxTensors || ++values > kMaxValues) refuse(path, "it has too many tensors");
    return true;
  };
  auto json = nlohmann::json::parse(text, text + size, watch, false);
  if (!json.is_object()) refuse(path, "its header is no JSON object");
  return json;
}

StoredTensor parse_tensor(const std::string& path, const std::string& name,
                          const nlohmann::json& entry, std::span<const std::byte> data) {
  const std::string where = "tensor '" + printable(name) + "'";
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets") || !entry["dtype"].is_string() ||
      !entry["shape"].is_array() || !entry["data_offsets"].is_array() ||
      entry["data_offsets"].size() != 2 || entry["shape"].size() > kMaxRank) {
    refuse(path, where + " has a malformed entry");
  }
  StoredTensor t;
  t.name = name;
  const auto& dtype = entry["dtype"].get_ref<const std::string&>();
  const auto type = std::ranges::find(kTypes, dtype, &TypeRow::name);
  if (type == kTypes.end()) {
    throw std::runtime_error(path + ": " + where + " has the dtype " + printable(dtype, 32) +
                             ", which is not supported; convert the checkpoint to BF16");
  }
  t.type = type->type;
  int64_t bytes = type->bytes;
  for (const auto& d : entry["shape"]) {
    t.shape.push_back(unsigned_field(path, d, where + ": a dimension"));
    if (__builtin_mul_overflow(bytes, t.shape.back(), &bytes)) refuse(path, where + " overflows");
  }
  const int64_t begin = unsigned_field(path, entry["data_offsets"][0], where + ": an offset");
  const int64_t end = unsigned_field(path, entry["data_offsets"][1], where + ": an offset");
  if (begin > end || end > static_cast<int64_t>(data.size())) {
    refuse(path, where + " lies outside of the file (is it cut off?)");
  }
  if (end - begin != bytes) refuse(path, where + ": its shape does not match its bytes");
  t.data = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(bytes));
  return t;
}

// Tensors must follow one another without hole or overlap up to the end of the file.
void check_layout(const std::string& path, std::span<const std::byte> data,
                  const std::map<std::string, StoredTensor, std::less<>>& tensors) {
  std::vector<const StoredTensor*> order;
  for (const auto& [name, t] : tensors) order.push_back(&t);
  std::ranges::sort(order, [](const StoredTensor* a, const StoredTensor* b) {
    return std::pair(a->data.data(), a->data.size()) < std::pair(b->data.data(), b->data.size());
  });
  const std::byte* next = data.data();
  for (const StoredTensor* t : order) {
    if (t->data.data() != next) {
      refuse(path, "tensor '" + printable(t->name) + "' overlaps or leaves a hole");
    }
    next += t->data.size();
  }
  if (next != data.data() + data.size()) refuse(path, "there are bytes after the last tensor");
}

float from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u;
  const uint32_t fraction = h & 1023u;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t bits = exponent == 31 ? 0x7f800000u | (fraction << 13)
                                       : ((exponent + 112u) << 23) | (fraction << 13);
  return std::bit_cast<float>(sign | bits);
}

template <typename T>
T element(const StoredTensor& t, size_t i) {
  T v;
  std::memcpy(&v, t.data.data() + i * sizeof(T), sizeof(T));
  return v;
}

}  // namespace

int64_t bytes_of(StoredType type) { return row(type).bytes; }
std::string_view name(StoredType type) { return row(type).name; }

struct SafeTensors::Mapping {
  void* address = MAP_FAILED;
  size_t size = 0;
  ~Mapping() {
    if (address != MAP_FAILED) ::munmap(address, size);
  }
  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(address), size};
  }
  static std::unique_ptr<Mapping> of(const std::string& path) {
    const auto failed = [&](const char* what) -> std::runtime_error {
      return std::runtime_error(std::string(what) + " " + path + ": " + std::strerror(errno));
    };
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw failed("cannot open");
    auto mapping = std::make_unique<Mapping>();
    struct stat status {};
    const bool known = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    mapping->size = known ? static_cast<size_t>(status.st_size) : 0;
    if (mapping->size >= 8) {
      mapping->address = ::mmap(nullptr, mapping->size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    ::close(fd);
    if (!known || mapping->size < 8) refuse(path, "it is shorter than a header");
    if (mapping->address == MAP_FAILED) throw failed("cannot map");
    return mapping;
  }
};

SafeTensors::SafeTensors() = default;
SafeTensors::SafeTensors(SafeTensors&&) noexcept = default;
SafeTensors& SafeTensors::operator=(SafeTensors&&) noexcept = default;
SafeTensors::~SafeTensors() = default;

SafeTensors SafeTensors::open(const std::string& path) {
  SafeTensors file;
  file.path_ = path;
  file.mapping_ = Mapping::of(path);
  const auto bytes = file.mapping_->bytes();
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  if (header > kMaxHeader || header > bytes.size() - 8) {
    refuse(path, "its header length is out of range");
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  const auto json = parse_header(path, text, header);
  const auto data = bytes.subspan(8 + header);
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    file.tensors_.emplace(name, parse_tensor(path, name, entry, data));
  }
  check_layout(path, data, file.tensors_);
  return file;
}

const StoredTensor* SafeTensors::find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

const StoredTensor& SafeTensors::at(std::string_view name) const {
  const StoredTensor* t = find(name);
  if (t == nullptr) {
    throw std::runtime_error(path_ + ": there is no tensor '" + std::string(name) + "'");
  }
  return *t;
}

void release_pages(const void* from, size_t bytes) {
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(from) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(from) + bytes;
  // Advice: whether it is taken changes no result.
  if (bytes > 0) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

std::vector<float> to_float(const StoredTensor& t) {
  std::vector<float> out(static_cast<size_t>(t.elements()));
  switch (t.type) {
    case StoredType::f32:
      if (!out.empty()) std::memcpy(out.data(), t.data.data(), t.data.size());
      break;
    case StoredType::bf16:
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = std::bit_cast<float>(static_cast<uint32_t>(element<uint16_t>(t, i)) << 16);
      }
      break;
    case StoredType::f16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = from_half(element<uint16_t>(t, i));
      break;
    default:
      throw std::runtime_error("tensor '" + t.name + "' has the dtype " +
                               std::string(name(t.type)) + " where F32, F16 or BF16 is expected");
  }
  return out;
}

std::vector<int32_t> to_int(const StoredTensor& t) {
  std::vector<int32_t> out(static_cast<size_t>(t.elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    int64_t v = 0;
    if (t.type == StoredType::i32) {
      v = element<int32_t>(t, i);
    } else if (t.type == StoredType::i64) {
      v = element<int64_t>(t, i);
    } else {
      throw std::runtime_error("tensor '" + t.name + "' has the dtype " +
                               std::string(name(t.type)) + " where I32 or I64 is expected");
    }
    if (v < std::numeric_limits<int32_t>::min() || v > std::numeric_limits<int32_t>::max()) {
      throw std::runtime_error("tensor '" + t.name + "' holds a value beyond 32 bits");
    }
    out[i] = static_cast<int32_t>(v);
  }
  return out;
}

}  // namespace limpet::engine
