// The lines of `limpet batch`: OpenAI batch requests in, OpenAI batch responses out. Pure.
#pragma once
#include <string>
#include <string_view>

#include "clients/cpp/client.h"

namespace limpet::client {

struct BatchLine {
  std::string custom_id;
  JobSpec spec;       // with its job id, which follows from custom_id and the body alone
  std::string model;  // told back
  std::string error;  // not empty: this request is wrong; it is answered by an error line
};

// False: the line names no request at all (no JSON object, no custom_id); `out.error` says why.
bool parse_batch_line(std::string_view line, int32_t default_max_tokens, BatchLine& out);

// What is told back of a request, gathered from its events.
struct BatchAnswer {
  std::string custom_id, job_id, model, text;
};
std::string batch_response(const BatchAnswer& answer, const Event& last);
std::string batch_error(const BatchAnswer& answer, std::string_view code, std::string_view message);

// The custom_id of a line of an output file; empty when it is no such line: a line with neither
// `response` nor `error` answers nothing.
std::string answered_id(std::string_view line);
// Whether these bytes may be what a crash has left of a line of batch_response or batch_error.
bool begins_answer(std::string_view torn_line);

}  // namespace limpet::client
