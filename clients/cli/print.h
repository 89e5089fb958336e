// What the commands write: events as JSON lines or as text, errors as one line.
#pragma once
#include <string>
#include <string_view>

#include "clients/cpp/client.h"

namespace limpet::client {

// {"event": "busy" | "accepted" | "started" | "tokens" | "finished" | "failed" | "refused" |
//           "lost", …}
std::string to_json(const Event& event);
std::string to_json(const JobInfo& row);
std::string to_json(const SessionInfo& row);
std::string to_json(const WorkerInfo& row);
std::string to_json(const Released& answer);
std::string to_json(const Retried& answer);
// "2026-11-27T03:24:05Z"; "-" of 0.
std::string time_text(WallMs at);

// "resident on one: 35 tokens of KV at hand, 12 prefilled"
std::string residency_line(const Started& started);

// Why a job that ended with this event did not succeed; empty when it did.
std::string failure_of(const Event& last);

// "limpet: …" on stderr. Returns 1, the exit status.
int fail(std::string_view message);
// The same for wrong arguments. Returns 2.
int misused(std::string_view message);

// A name nobody else draws: PREFIX-16 hex digits.
std::string drawn_name(std::string_view prefix);

}  // namespace limpet::client
