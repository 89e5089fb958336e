#include "broker/config_file.h"

#include <fstream>
#include <sstream>
#include <toml.hpp>

#include "broker/allow_list.h"

namespace limpet::broker {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;
constexpr std::streamsize kLargest = 1 << 20;  // bytes of a file

// toml11's message is a drawing of several lines: its first without the function's name.
std::string cause_of(const std::exception& e) {
  std::string_view text = e.what();
  text = text.substr(0, text.find('\n'));
  const auto skip = [&](std::string_view what) {
    if (text.starts_with(what)) text.remove_prefix(what.size());
  };
  skip("[error] ");
  if (const size_t colon = text.find(": "); colon < text.find(' ')) skip(text.substr(0, colon + 2));
  while (text.ends_with('.') || text.ends_with(' ')) text.remove_suffix(1);
  return std::string(text);
}

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  BrokerConfig read() {
    const toml::value root = parse();
    BrokerConfig config;
    for (const auto& [key, value] : root.as_table()) {
      if (key == "tenant-defaults") {
        config.tenants.standard = policy(value, key, {});
      } else if (key == "retention") {
        retention(value, config);
      } else if (key != "tenants") {
        wrong(value, "'" + key + "' is not known here; tenant-defaults, tenants and retention are");
      }
    }
    if (!root.contains("tenants")) return config;
    for (const auto& [name, value] : table(root.at("tenants"), "tenants")) {
      // The one without a name is who comes when keys are off.
      if (!name.empty() && !is_tenant(name)) wrong(value, kTenantNames);
      config.tenants.named[name] = policy(value, name, config.tenants.standard);
    }
    return config;
  }

 private:
  [[noreturn]] void wrong(const toml::value& at, const std::string& what) const {
    throw ConfigError(path_ + ":" + std::to_string(at.location().line()) + ": " + what);
  }

  toml::value parse() const {
    std::ifstream file(path_, std::ios::binary);
    std::string text(kLargest + 1, '\0');
    if (file) file.read(text.data(), std::ssize(text));
    if (!file.is_open() || file.bad()) throw ConfigError(path_ + ": cannot be read");
    if (file.gcount() > kLargest) throw ConfigError(path_ + ": is larger than 1 MiB");
    text.resize(static_cast<size_t>(file.gcount()));
    std::istringstream in(text);
    try {
      return toml::parse(in, path_);
    } catch (const toml::exception& e) {
      throw ConfigError(path_ + ":" + std::to_string(e.location().line()) +
                        ": this is not TOML: " + cause_of(e));
    } catch (const std::exception& e) {
      throw ConfigError(path_ + ": this is not TOML: " + cause_of(e));
    }
  }

  const toml::table& table(const toml::value& value, const std::string& name) const {
    if (!value.is_table()) wrong(value, "'" + name + "' must be a table");
    return value.as_table();
  }

  void retention(const toml::value& value, BrokerConfig& config) const {
    for (const auto& [key, one] : table(value, "retention")) {
      if (key == "jobs_s") {
        config.retain_jobs_s = kept(key, one);
      } else if (key == "sessions_s") {
        config.retain_sessions_s = kept(key, one);
      } else if (key == "store_bytes") {
        config.retain_bytes = kept(key, one);
      } else {
        wrong(one, "'" + key + "' is not known here; jobs_s, sessions_s and store_bytes are");
      }
    }
  }
  int64_t kept(const std::string& key, const toml::value& value) const {
    if (!value.is_integer() || value.as_integer() < 0 || value.as_integer() > kMost) {
      wrong(value, key + " must be a whole number from 0 (for ever) to 2^40");
    }
    return value.as_integer();
  }
  TenantPolicy policy(const toml::value& value, const std::string& name, TenantPolicy p) const {
    for (const auto& [key, one] : table(value, name)) {
      if (key == "weight") {
        p.weight = weight(one);
      } else if (key == "max_queued_jobs") {
        p.max_queued_jobs = cap(key, one);
      } else if (key == "max_running_jobs") {
        p.max_running_jobs = cap(key, one);
      } else if (key == "max_resident_tokens") {
        p.max_resident_tokens = cap(key, one);
      } else {
        wrong(one, "'" + key +
                       "' is not known here; weight, max_queued_jobs, max_running_jobs and"
                       " max_resident_tokens are");
      }
    }
    return p;
  }
  double weight(const toml::value& value) const {
    double w = 0;
    if (value.is_floating()) w = value.as_floating();
    if (value.is_integer()) w = static_cast<double>(value.as_integer());
    if (!(w >= 0.001 && w <= 1e6)) wrong(value, "weight must be a number from 0.001 to 1000000");
    return w;
  }
  int64_t cap(const std::string& key, const toml::value& value) const {
    if (!value.is_integer() || value.as_integer() < 0 || value.as_integer() > kMost) {
      wrong(value, key + " must be a whole number from 0 (no cap) to 2^40");
    }
    return value.as_integer();
  }

  std::string path_;
};

}  // namespace

BrokerConfig read_config(const std::string& path) { return Reader(path).read(); }

}  // namespace limpet::broker
