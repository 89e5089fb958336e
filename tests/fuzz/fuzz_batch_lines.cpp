// The lines of `limpet batch`, of requests and of answers. What is answered is known by the same
// key when it is read back.
#include <nlohmann/json.hpp>

#include "clients/cli/batch_lines.h"
#include "schema/wire.h"
#include "tests/fuzz/target.h"

namespace limpet::fuzz {
namespace {

using namespace limpet::client;

void expect_answer(const std::string& line, const std::string& key, bool failed) {
  expect(line.find('\n') == std::string::npos);
  expect(nlohmann::json::parse(line, nullptr, false).is_object());
  const AnsweredLine read = answered(line);
  expect(read.key == key && read.failed == failed);
  for (size_t n = 0; n < line.size(); n += 7) expect(begins_answer(line.substr(0, n)));
}

bool run(std::string_view input) {
  answered(input);
  BatchLine line;
  if (!parse_batch_line(input, 256, line)) {
    expect(!line.error.empty());
    const BatchAnswer answer{.custom_id = "", .job_id = "line-7", .model = "", .text = "",
                             .line = 7};
    expect_answer(batch_error(answer, "invalid", line.error), key_of_line(7), true);
    return false;
  }
  expect(!line.custom_id.empty() && !line.spec.job_id.empty());
  const BatchAnswer answer{.custom_id = line.custom_id, .job_id = line.spec.job_id,
                           .model = line.model, .text = std::string(input.substr(0, 64)),
                           .chat = line.chat};
  expect_answer(batch_error(answer, "invalid", line.error), key_of_id(line.custom_id), true);
  if (!line.error.empty()) return false;
  expect(wire::check(line.spec).empty());
  expect_answer(batch_response(answer, Finished{}), key_of_id(line.custom_id), false);
  // The same line is the same job.
  BatchLine again;
  expect(parse_batch_line(input, 256, again) && again.spec == line.spec);
  return true;
}

std::vector<std::string> seeds() {
  return {
      R"({"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m",)"
      R"("messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text",)"
      R"("text":"x"}]}],"max_tokens":9,"temperature":0.5,"top_p":0.9,"seed":7,"stop":["a","b"]}})",
      R"({"custom_id":"b","url":"/v1/completions","session":"s","body":{"prompt":"Once",)"
      R"("max_completion_tokens":3,"top_k":4,"min_p":0.1,"repetition_penalty":1.1,"stop":"x"}})",
      R"({"custom_id":"c","body":{"prompt":[[1,2,3]],"n":1,"tools":[],"logprobs":null,)"
      R"("response_format":{"type":"text"},"session":"t"}})",
      R"({"custom_id":"\u00e9\ud83d\ude00","body":{"messages":[{"role":"user","content":"\n"}]}})",
      R"({"id":"j","custom_id":"a","response":null,"error":{"code":"invalid","message":"m"}})"};
}

}  // namespace

const Target kBatchLines{run, seeds};

}  // namespace limpet::fuzz
