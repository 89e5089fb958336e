// Which endpoints need keys: those that other machines can reach, or that are reached over a
// network. Pure.
#pragma once
#include <string>

namespace limpet::keys {

// Empty when a broker may listen there; otherwise one line that says why not, and what to do.
std::string refuse_listening(const std::string& endpoint, bool with_keys);

// Empty when a client or worker may connect there; likewise.
std::string refuse_connecting(const std::string& endpoint, bool with_keys);

}  // namespace limpet::keys
