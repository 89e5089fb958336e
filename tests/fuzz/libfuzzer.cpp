// libFuzzer's entry, for the target that LIMPET_FUZZ_TARGET names.
#include <cstdint>

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  limpet::fuzz::LIMPET_FUZZ_TARGET.run({reinterpret_cast<const char*>(data), size});
  return 0;
}
