// The lines of `limpet batch`: OpenAI batch requests in, OpenAI batch responses out. Pure.
#pragma once
#include <string>
#include <string_view>

#include "clients/cpp/client.h"

namespace limpet::client {

// The longest line that is read, bytes: what a broker takes in one message.
inline constexpr size_t kLongestBatchLine = 16u << 20;

struct BatchLine {
  std::string custom_id;
  JobSpec spec;       // with its job id, which follows from custom_id and the body alone
  std::string model;  // told back
  bool chat = true;   // /v1/chat/completions, else /v1/completions
  std::string error;  // not empty: this request is wrong; it is answered by an error line
};

// False: the line names no request at all (no JSON object, no custom_id); `out.error` says why.
bool parse_batch_line(std::string_view line, int32_t default_max_tokens, BatchLine& out);

// What is told back of a request, gathered from its events.
struct BatchAnswer {
  std::string custom_id, job_id, model, text;
  bool chat = true;
  uint64_t line = 0;  // of a line without a custom_id of its own: its number, from 1
};
std::string batch_response(const BatchAnswer& answer, const Event& last);
std::string batch_error(const BatchAnswer& answer, std::string_view code, std::string_view message);

// What a line is known by, in the input and in the output: its custom_id, or its number.
std::string key_of_id(std::string_view custom_id);
std::string key_of_line(uint64_t number);
// What a line of an output file answers. The key is empty when it is no such line: a line with
// neither `response` nor `error` answers nothing.
struct AnsweredLine {
  std::string key;
  bool failed = false;
};
AnsweredLine answered(std::string_view line);
// Whether these bytes may be what a crash has left of a line of batch_response or batch_error.
bool begins_answer(std::string_view torn_line);

}  // namespace limpet::client
