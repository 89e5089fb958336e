// Fields of a tokenizer.json, checked: all of these throw std::runtime_error, which names the field
// and says what is wrong with it.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/token.h"

namespace limpet::engine {

using Json = nlohmann::json;

[[noreturn]] void refuse(const std::string& what);
const Json& field(const Json& object, const char* name);
// A field that may be absent or null: then null.
const Json* optional_field(const Json& object, const char* name);
std::string text_of(const Json& object, const char* name);
bool flag_of(const Json& object, const char* name, bool otherwise);
Token id_of(const Json& value, const char* name);

// Before parsing: containers in containers cost much more memory than the text that asks for them.
void check_depth(std::string_view json);

}  // namespace limpet::engine
