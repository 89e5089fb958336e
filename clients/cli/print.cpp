#include "clients/cli/print.h"

#include <cinttypes>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>

namespace limpet::client {
namespace {

using Json = nlohmann::ordered_json;

// Names and texts are bytes from elsewhere: what is not UTF-8 in them is replaced.
std::string line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json event(const char* kind, const std::string& job_id) {
  Json json;
  json["event"] = kind;
  json["job"] = job_id;
  return json;
}

Json json_of(const Accepted& m) {
  Json json = event("accepted", m.job_id);
  json["state"] = name(m.state);
  json["created"] = m.created;
  return json;
}
Json json_of(const Started& m) {
  Json json = event("started", m.job_id);
  json["worker"] = m.worker;
  json["attempt"] = m.attempt;
  json["residency"] = name(m.residency);
  json["reason"] = name(m.reason);
  json["cached_tokens"] = m.cached_tokens;
  json["prefilled_tokens"] = m.prefilled_tokens;
  return json;
}
Json json_of(const Tokens& m) {
  Json json = event("tokens", m.job_id);
  json["first_index"] = m.first_index;
  json["ids"] = m.ids;
  json["text"] = m.text;
  if (!m.logprobs.empty()) {
    Json all = Json::array();
    for (const auto& list : m.logprobs) {
      Json one = Json::array();
      for (const TokenLogprob& p : list) one.push_back({{"id", p.token}, {"logprob", p.logprob}});
      all.push_back(std::move(one));
    }
    json["logprobs"] = std::move(all);
  }
  return json;
}
Json json_of(const Finished& m) {
  Json json = event("finished", m.job_id);
  json["reason"] = name(m.reason);
  json["usage"] = {{"prompt_tokens", m.usage.prompt_tokens},
                   {"cached_tokens", m.usage.cached_tokens},
                   {"output_tokens", m.usage.output_tokens}};
  json["timings"] = {{"queue", m.timings.queue},
                     {"first_token", m.timings.first_token},
                     {"total", m.timings.total}};
  return json;
}
Json json_of(const Failed& m) {
  Json json = event("failed", m.job_id);
  json["code"] = name(m.code);
  json["message"] = m.message;
  return json;
}
Json json_of(const Refused& m) {
  Json json = event("refused", m.job_id);
  json["code"] = name(m.code);
  json["message"] = m.message;
  return json;
}
Json json_of(const Busy& m) {
  Json json = event("busy", m.job_id);
  json["message"] = m.message;
  json["retry_after_ms"] = m.retry_after_ms;
  return json;
}
Json json_of(const Lost& m) {
  Json json = event("lost", m.job_id);
  json["contradiction"] = m.contradiction;
  json["message"] = m.message;
  return json;
}

std::string coded(ErrorCode code, const std::string& message) {
  std::string out(name(code));
  if (!message.empty()) out += ": " + message;
  return out;
}

// Whose it is, where keys say so.
Json of_tenant(const std::string& tenant, Json row) {
  if (!tenant.empty()) row["tenant"] = tenant;
  return row;
}

}  // namespace

std::string to_json(const Event& e) {
  return line(std::visit([](const auto& m) { return json_of(m); }, e));
}

std::string to_json(const JobInfo& r) {
  return line(of_tenant(r.tenant, {{"job", r.job_id},
               {"session", r.session},
               {"state", name(r.state)},
               {"worker", r.worker},
               {"attempt", r.attempt},
               {"output_tokens", r.output_tokens},
               {"detail", r.detail},
               {"code", name(r.code)},
               {"accepted_at", time_text(r.accepted_at)},
               {"ended_at", time_text(r.ended_at)}}));
}

std::string to_json(const SessionInfo& r) {
  return line(of_tenant(r.tenant, {{"session", r.session},
               {"state", name(r.state)},
               {"home", r.home},
               {"epoch", r.epoch},
               {"tokens", r.tokens},
               {"queued_jobs", r.queued_jobs},
               {"keep_alive_ms", r.keep_alive_ms},
               {"max_tokens", r.max_tokens},
               {"used_at", time_text(r.used_at)}}));
}

std::string to_json(const WorkerInfo& r) {
  return line({{"worker", r.worker},
               {"state", r.state},
               {"device", r.device},
               {"model", r.model},
               {"sessions", r.sessions},
               {"running", r.running},
               {"slots", r.slots},
               {"free_kv_tokens", r.free_kv_tokens},
               {"total_kv_tokens", r.total_kv_tokens},
               {"waiting", r.waiting},
               {"resident_kv_tokens", r.resident_kv_tokens}});
}

std::string to_json(const Released& r) {
  return line({{"session", r.session}, {"state", name(r.state)}, {"tokens", r.tokens}});
}

std::string to_json(const Retried& r) {
  return line({{"job", r.job_id}, {"state", name(r.state)}, {"again", r.again}});
}

std::string time_text(WallMs at) {
  if (at <= 0) return "-";
  const std::time_t seconds = at / 1000;
  std::tm parts{};
  char text[32];
  if (gmtime_r(&seconds, &parts) == nullptr ||
      std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0) {
    return "-";
  }
  return text;
}

std::string residency_line(const Started& s) {
  std::string out(name(s.residency));
  if (s.reason != Reason::none) out += " (" + std::string(name(s.reason)) + ")";
  out += " on " + s.worker + ": " + std::to_string(s.cached_tokens) + " tokens of KV at hand, " +
         std::to_string(s.prefilled_tokens) + " prefilled";
  if (s.attempt > 1) out += ", attempt " + std::to_string(s.attempt);
  return out;
}

std::string failure_of(const Event& last) {
  if (const auto* m = std::get_if<Finished>(&last)) {
    const bool good = m->reason == FinishReason::stop || m->reason == FinishReason::length;
    return good
               ? ""
               : "job " + m->job_id + " was " +
                     (m->reason == FinishReason::cancelled ? "cancelled" : "ended by its deadline");
  }
  if (const auto* m = std::get_if<Failed>(&last)) {
    return "job " + m->job_id + " failed: " + coded(m->code, m->message);
  }
  if (const auto* m = std::get_if<Refused>(&last)) {
    return "job " + m->job_id + " was refused: " + coded(m->code, m->message);
  }
  if (const auto* m = std::get_if<Lost>(&last)) {
    const std::string hint = "; the job may go on: limpet attach " + m->job_id;
    return "job " + m->job_id + ": " + (m->contradiction ? "contradiction: " : "") + m->message +
           (m->contradiction ? "" : hint);
  }
  return "";
}

int fail(std::string_view message) {
  std::string one_line(message);
  for (char& c : one_line) c = c == '\n' || c == '\r' ? ' ' : c;
  std::fprintf(stderr, "limpet: %s\n", one_line.c_str());
  return 1;
}

int misused(std::string_view message) { return fail(message) + 1; }

std::string drawn_name(std::string_view prefix) {
  std::random_device device;
  const uint64_t drawn = uint64_t{device()} << 32 | device();
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016" PRIx64, drawn);
  return std::string(prefix) + "-" + digits;
}

}  // namespace limpet::client
