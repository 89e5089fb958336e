// JSON to a chat template's values, in the order of the text.
#pragma once
#include <string_view>

#include "engine/chat_template_value.h"

namespace limpet::engine::jinja {

// An object's members. Throws TemplateError when it is no object, too large or too deep.
Dict dict_from_json(std::string_view json);

}  // namespace limpet::engine::jinja
