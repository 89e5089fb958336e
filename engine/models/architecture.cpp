#include "engine/models/architecture.h"

#include <array>
#include <stdexcept>

namespace limpet::engine {

const Architecture& find_architecture(std::string_view name) {
  const std::array all = {&kLlama, &kMistral, &kQwen2, &kQwen3, &kMimo};
  std::string names;
  for (const Architecture* a : all) {
    if (a->name == name) return *a;
    names += (names.empty() ? "" : ", ") + std::string(a->name);
  }
  throw std::runtime_error("architecture '" + std::string(name) +
                           "' is not supported; these are: " + names);
}

}  // namespace limpet::engine
