// A chat template's source to its tree.
#pragma once
#include <string_view>

#include "engine/chat_template_ast.h"

namespace limpet::engine::jinja {

inline constexpr size_t kMaxTemplate = 1u << 20;  // bytes of source
inline constexpr int kMaxParseDepth = 100;        // of expressions in expressions, and of blocks

// Throws TemplateError with the line of the first error.
Block parse_template(std::string_view source);

}  // namespace limpet::engine::jinja
