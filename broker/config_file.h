// The broker's configuration file: TOML, read at the start and again when it is told to.
//
//   [tenant-defaults]            # of every tenant that is not named
//   max_queued_jobs = 1000
//   [tenants."team-a"]
//   weight = 3
//   [retention]                  # how long what has ended is kept
//   jobs_s = 604800
//
// Everything in it is checked before any of it holds. Any thread.
#pragma once
#include <optional>
#include <stdexcept>
#include <string>

#include "broker/tenant_table.h"

namespace limpet::broker {

struct BrokerConfig {
  TenantPolicies tenants;
  std::optional<int64_t> retain_jobs_s, retain_sessions_s, retain_bytes;  // instead of the flags'
};

// "FILE:LINE: what is wrong", one line.
struct ConfigError : std::runtime_error {
  using runtime_error::runtime_error;
};

// Throws ConfigError: the file cannot be read, is no TOML, has a key that is not known or a value
// out of its range.
BrokerConfig read_config(const std::string& path);

}  // namespace limpet::broker
