#include <fstream>
#include <iterator>
#include <stdexcept>

#include "tests/fuzz/target.h"

namespace limpet::fuzz {

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path + "; run this in the project's root");
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace limpet::fuzz
