#include "clients/cli/batch_lines.h"

#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "clients/cli/print.h"
#include "schema/wire.h"

namespace limpet::client {
namespace {

using Json = nlohmann::ordered_json;

std::string line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

uint64_t fnv1a(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const unsigned char c : bytes) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

std::string job_id_of(const BatchLine& request) {
  char id[48];
  std::snprintf(id, sizeof id, "batch-%016" PRIx64 "-%016" PRIx64, fnv1a(request.custom_id),
                wire::body_hash(request.spec));
  return id;
}

// A field of the body, if it is there: of the wanted kind, or an error that names it.
template <typename T>
void field(const Json& body, const char* name, T& out) {
  const auto it = body.find(name);
  if (it == body.end() || it->is_null()) return;
  const bool fits = std::is_same_v<T, std::string> ? it->is_string()
                    : std::is_floating_point_v<T>  ? it->is_number()
                                                   : it->is_number_integer();
  if (!fits) throw std::runtime_error(std::string(name) + " has the wrong type");
  if constexpr (std::is_same_v<T, int32_t>) {
    const int64_t wide = it->get<int64_t>();
    if (wide < INT32_MIN || wide > INT32_MAX) {
      throw std::runtime_error(std::string(name) + " is out of range");
    }
  }
  out = it->get<T>();
}

std::string content_of(const Json& message) {
  const auto it = message.find("content");
  if (it == message.end() || it->is_null()) return "";
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) throw std::runtime_error("content is neither text nor a list of parts");
  std::string out;
  for (const Json& part : *it) {
    if (!part.is_object() || part.value("type", "") != "text") {
      throw std::runtime_error("content holds a part that is not text");
    }
    std::string text;
    field(part, "text", text);
    out += text;
  }
  return out;
}

void read_stop(const Json& body, JobSpec& spec) {
  const auto it = body.find("stop");
  if (it == body.end() || it->is_null()) return;
  const Json list = it->is_array() ? *it : Json::array({*it});
  for (const Json& stop : list) {
    if (!stop.is_string()) throw std::runtime_error("stop is neither text nor a list of texts");
    spec.stop.push_back(stop.get<std::string>());
  }
}

void read_messages(const Json& body, JobSpec& spec) {
  const auto messages = body.find("messages");
  if (messages == body.end() || !messages->is_array()) {
    throw std::runtime_error("body.messages is missing");
  }
  for (const Json& message : *messages) {
    if (!message.is_object()) throw std::runtime_error("body.messages holds no message");
    ChatMessage& to = spec.messages.emplace_back();
    field(message, "role", to.role);
    to.content = content_of(message);
  }
}

// Text, or token ids, or a list of one of these.
void read_prompt(const Json& body, JobSpec& spec) {
  const auto it = body.find("prompt");
  if (it == body.end()) throw std::runtime_error("body.prompt is missing");
  const Json* prompt = &*it;
  if (prompt->is_array() && prompt->size() == 1 && !prompt->front().is_number()) {
    prompt = &prompt->front();
  }
  if (prompt->is_string()) {
    spec.kind = InputKind::text;
    spec.text = prompt->get<std::string>();
    return;
  }
  spec.kind = InputKind::tokens;
  if (!prompt->is_array()) throw std::runtime_error("prompt is neither text nor token ids");
  for (const Json& id : *prompt) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
      throw std::runtime_error("prompt must be one text or one list of token ids");
    }
    spec.tokens.push_back(static_cast<Token>(id.get<int64_t>()));
  }
}

// What would change the answer and is not served is an error, not left out.
void refuse_unserved(const Json& body) {
  const auto there = [&](const char* name) {
    const auto it = body.find(name);
    if (it == body.end() || it->is_null()) return false;
    const bool nothing = (it->is_array() || it->is_object() || it->is_string())
                             ? it->empty() || *it == ""
                             : *it == false || *it == 0;
    return !nothing;
  };
  for (const char* name : {"tools", "functions", "logit_bias", "logprobs", "top_logprobs", "echo",
                           "suffix", "frequency_penalty", "presence_penalty"}) {
    if (there(name)) throw std::runtime_error(std::string(name) + " is not supported");
  }
  int32_t n = 1, best_of = 1;
  field(body, "n", n);
  field(body, "best_of", best_of);
  if (n != 1 || best_of != 1) throw std::runtime_error("n must be 1, and best_of too");
  const auto format = body.find("response_format");
  if (format != body.end() && format->is_object() && format->value("type", "text") != "text") {
    throw std::runtime_error("response_format other than text is not supported");
  }
}

void read_body(const Json& body, BatchLine& out) {
  refuse_unserved(body);
  if (out.chat) {
    read_messages(body, out.spec);
  } else {
    read_prompt(body, out.spec);
  }
  Sampling& sampling = out.spec.sampling;
  sampling.temperature = 1;  // OpenAI's default
  field(body, "model", out.model);
  field(body, "session", out.spec.session);
  field(body, "max_tokens", out.spec.max_tokens);
  field(body, "max_completion_tokens", out.spec.max_tokens);
  field(body, "temperature", sampling.temperature);
  field(body, "top_p", sampling.top_p);
  field(body, "top_k", sampling.top_k);
  field(body, "min_p", sampling.min_p);
  field(body, "repetition_penalty", sampling.repetition_penalty);
  if (body.contains("seed") && !body["seed"].is_null()) {
    int64_t seed = 0;
    field(body, "seed", seed);
    sampling.seed = static_cast<uint64_t>(seed);
  }
  read_stop(body, out.spec);
}

void read_request(const Json& json, BatchLine& out) {
  const auto body = json.find("body");
  if (body == json.end() || !body->is_object()) throw std::runtime_error("body is missing");
  std::string method = "POST", url = body->contains("prompt") && !body->contains("messages")
                                         ? "/v1/completions"
                                         : "/v1/chat/completions";
  field(json, "url", url);
  field(json, "method", method);
  if (method != "POST") throw std::runtime_error("method is not POST");
  out.chat = url == "/v1/chat/completions";
  if (!out.chat && url != "/v1/completions") {
    throw std::runtime_error("url is neither /v1/chat/completions nor /v1/completions");
  }
  read_body(*body, out);
  field(json, "session", out.spec.session);
}

// Null when it is no JSON, or nested so deep that it would take far more memory than its bytes.
Json parse_json(std::string_view text) {
  constexpr int kDeepest = 32;
  struct TooDeep {};
  const auto watch = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kDeepest) throw TooDeep{};
    return true;
  };
  try {
    Json json = Json::parse(text, watch, false);
    return json.is_discarded() ? Json() : json;
  } catch (const TooDeep&) {
    return {};
  }
}

Json envelope(const BatchAnswer& answer) {
  Json json;
  json["id"] = answer.job_id;
  if (answer.line == 0) {
    json["custom_id"] = answer.custom_id;
  } else {
    json["custom_id"] = nullptr;
    json["line"] = answer.line;
  }
  return json;
}

}  // namespace

bool parse_batch_line(std::string_view text, int32_t default_max_tokens, BatchLine& out) {
  out = {};
  out.spec.max_tokens = default_max_tokens;
  const Json json = parse_json(text);
  if (!json.is_object()) {
    out.error = "the line is no JSON object in UTF-8";
    return false;
  }
  const auto id = json.find("custom_id");
  if (id == json.end() || !id->is_string() || id->get_ref<const std::string&>().empty()) {
    out.error = "the line has no custom_id";
    return false;
  }
  out.custom_id = id->get<std::string>();
  try {
    read_request(json, out);
  } catch (const std::exception& e) {
    out.error = e.what();
  }
  out.spec.job_id = job_id_of(out);
  if (out.error.empty()) out.error = wire::check(out.spec);
  return true;
}

std::string batch_response(const BatchAnswer& answer, const Event& last) {
  const auto* finished = std::get_if<Finished>(&last);
  const std::string failure = failure_of(last);
  if (finished == nullptr || !failure.empty()) {
    ErrorCode code = ErrorCode::internal;
    if (const auto* m = std::get_if<Failed>(&last)) code = m->code;
    if (const auto* m = std::get_if<Refused>(&last)) code = m->code;
    if (finished != nullptr) return batch_error(answer, name(finished->reason), failure);
    return batch_error(answer, name(code), failure);
  }
  const Usage& u = finished->usage;
  Json body;
  body["id"] = answer.job_id;
  body["object"] = answer.chat ? "chat.completion" : "text_completion";
  body["model"] = answer.model;
  Json choice = {{"index", 0}};
  if (answer.chat) {
    choice["message"] = {{"role", "assistant"}, {"content", answer.text}};
  } else {
    choice["text"] = answer.text;
    choice["logprobs"] = nullptr;
  }
  choice["finish_reason"] = name(finished->reason);
  body["choices"] = Json::array({std::move(choice)});
  body["usage"] = {{"prompt_tokens", u.prompt_tokens},
                   {"completion_tokens", u.output_tokens},
                   {"total_tokens", u.prompt_tokens + u.output_tokens},
                   {"prompt_tokens_details", {{"cached_tokens", u.cached_tokens}}}};
  Json json = envelope(answer);
  json["response"] = {{"status_code", 200}, {"request_id", answer.job_id}, {"body", body}};
  json["error"] = nullptr;
  return line(json);
}

std::string batch_error(const BatchAnswer& answer, std::string_view code,
                        std::string_view message) {
  Json json = envelope(answer);
  json["response"] = nullptr;
  json["error"] = {{"code", code}, {"message", message}};
  return line(json);
}

std::string key_of_id(std::string_view custom_id) { return "id " + std::string(custom_id); }
std::string key_of_line(uint64_t number) { return "line " + std::to_string(number); }

AnsweredLine answered(std::string_view text) {
  const Json json = parse_json(text);
  if (!json.is_object()) return {};
  const auto object = [&](const char* name) {
    const auto it = json.find(name);
    return it != json.end() && it->is_object();
  };
  if (!object("response") && !object("error")) return {};
  const auto id = json.find("custom_id"), number = json.find("line");
  if (id != json.end() && id->is_string()) {
    return {key_of_id(id->get_ref<const std::string&>()), object("error")};
  }
  const bool numbered = number != json.end() && number->is_number_unsigned();
  return {numbered ? key_of_line(number->get<uint64_t>()) : "", object("error")};
}

bool begins_answer(std::string_view text) {
  constexpr std::string_view kBegin = R"({"id":")";
  return text.substr(0, kBegin.size()) == kBegin.substr(0, text.size());
}

}  // namespace limpet::client
