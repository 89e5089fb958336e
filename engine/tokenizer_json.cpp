#include "engine/tokenizer_json.h"

#include <stdexcept>

namespace limpet::engine {
namespace {

constexpr int kMaxDepth = 64;  // of JSON's containers
constexpr int64_t kMaxId = 1 << 24;

}  // namespace

void refuse(const std::string& what) { throw std::runtime_error(what); }

const Json& field(const Json& object, const char* name) {
  if (!object.is_object()) refuse(std::string("expected an object with \"") + name + "\"");
  const auto it = object.find(name);
  if (it == object.end()) refuse(std::string("\"") + name + "\" is missing");
  return *it;
}

const Json* optional_field(const Json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string text_of(const Json& object, const char* name) {
  const Json& value = field(object, name);
  if (!value.is_string()) refuse(std::string("\"") + name + "\" must be a string");
  return value.get<std::string>();
}

bool flag_of(const Json& object, const char* name, bool otherwise) {
  const Json* value = optional_field(object, name);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) refuse(std::string("\"") + name + "\" must be true or false");
  return value->get<bool>();
}

Token id_of(const Json& value, const char* name) {
  if (!value.is_number_integer()) refuse(std::string("\"") + name + "\" must be a token id");
  const auto id = value.get<int64_t>();
  if (id < 0 || id >= kMaxId) {
    refuse("the id " + std::to_string(id) + " of \"" + name + "\" is out of range");
  }
  return static_cast<Token>(id);
}

void check_depth(std::string_view json) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (depth > kMaxDepth) refuse("the file is nested too deeply");
  }
}

}  // namespace limpet::engine
