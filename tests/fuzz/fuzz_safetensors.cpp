// A safetensors file, and the same with the header's length put right. What opens can be read to
// its last byte.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "engine/safetensors.h"
#include "tests/fuzz/target.h"

namespace limpet::fuzz {
namespace {

void read(const engine::SafeTensors& file) {
  for (const auto& [name, tensor] : file.tensors()) {
    expect(file.find(name) == &tensor && tensor.elements() >= 0);
    unsigned sum = 0;
    for (const std::byte b : tensor.data) sum += static_cast<unsigned>(b);
    expect(sum <= 255 * tensor.data.size());
    try {
      engine::to_float(tensor);
    } catch (const std::runtime_error&) {  // another dtype
    }
    try {
      engine::to_int(tensor);
    } catch (const std::runtime_error&) {  // another dtype
    }
  }
}

bool open(std::string_view bytes) {
  const int fd = ::memfd_create("safetensors", MFD_CLOEXEC);
  expect(fd >= 0);
  expect(::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  bool taken = false;
  try {
    read(engine::SafeTensors::open("/proc/self/fd/" + std::to_string(fd)));
    taken = true;
  } catch (const std::runtime_error&) {  // damaged, told
  }
  ::close(fd);
  return taken;
}

bool run(std::string_view input) {
  const bool taken = open(input);
  const size_t brace = input.rfind('}');
  if (brace == std::string_view::npos || brace < 8) return taken;
  std::string right(input);
  const uint64_t length = brace + 1 - 8;
  std::memcpy(right.data(), &length, sizeof length);
  return open(right) || taken;
}

std::string file(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + std::string(data_bytes, '\x01');
}

std::vector<std::string> seeds() {
  return {
      file(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
           R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"__metadata__":{"x":"y"}} )",
           22),
      file(R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
           R"("b":{"dtype":"F16","shape":[],"data_offsets":[8,10]},)"
           R"("c":{"dtype":"U8","shape":[0,7],"data_offsets":[10,10]}})",
           10),
      file("{}", 0),
  };
}

}  // namespace

const Target kSafetensors{run, seeds};

}  // namespace limpet::fuzz
