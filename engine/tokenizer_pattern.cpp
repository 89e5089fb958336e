#include "engine/tokenizer_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdexcept>

#include "engine/tokenizer_pattern_syntax.h"
#include "engine/tokenizer_utf8.h"

namespace limpet::engine {
namespace {

constexpr uint32_t kMatchLimit = 200'000'000;    // backtracking steps of one match
constexpr uint32_t kHeapLimitKb = 256u << 10;    // of one match, without JIT
constexpr size_t kJitStack = 8u << 20;           // bytes, reserved only when used

constexpr const char* kMovedStart =
    "the split pattern has \\K in a look-around, which is not supported";

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* p) const {
    Free(p);
  }
};
using CodePointer = std::unique_ptr<pcre2_code, Freed<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freed<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freed<pcre2_jit_stack_free>>;

}  // namespace

struct Pattern::Code {
  CodePointer code;
};

Pattern::Pattern(const std::string& source, bool literal) : code_(std::make_unique<Code>()) {
  const std::string pattern = literal ? source : to_pcre2(source);
  const CompileContext context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 100);
  const uint32_t options =
      PCRE2_UTF |
      (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
  int error = 0;
  PCRE2_SIZE at = 0;
  code_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  options, &error, &at, context.get()));
  if (code_->code == nullptr) {
    throw std::runtime_error("cannot read the pattern \"" + source + "\": " + message_of(error));
  }
  // Without JIT (a platform that has none) the interpreter gives the same matches, slower.
  pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

std::string Pattern::find_all(std::string_view text, std::vector<Range>& matches) const {
  matches.clear();
  const MatchData data(pcre2_match_data_create(1, nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  JitStack stack;  // most matches need no more than the 32 KiB that PCRE2 has of its own
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKb);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t from = 0, last_end = std::string_view::npos;
  while (from <= text.size()) {
    const int rc = pcre2_match(code_->code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                               data.get(), context.get());
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && stack == nullptr) {
      stack.reset(pcre2_jit_stack_create(64u << 10, kJitStack, nullptr));
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
      if (stack != nullptr) continue;
    }
    if (rc < 0) return "the split pattern failed on this text: " + message_of(rc);
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
    const Range range{ends[0], ends[1]};
    if (range.begin < from) return kMovedStart;
    if (range.begin == range.end) {
      // An empty match right after another is none; either way the search goes on a character on.
      if (range.begin != last_end) matches.push_back(range);
      if (range.end == text.size()) break;
      from = range.end + utf8_step(text.substr(range.end)).length;
    } else if (range.begin < range.end) {
      matches.push_back(range);
      from = range.end;
    } else {
      return kMovedStart;
    }
    last_end = range.end;
  }
  return "";
}

}  // namespace limpet::engine
