#include "broker/allow_list.h"

#include <algorithm>
#include <array>
#include <vector>

#include "keys/keys.h"

namespace limpet::broker {
namespace {

constexpr std::array<std::string_view, 3> kRoles = {"client", "worker", "admin"};

std::vector<std::string_view> words_of(std::string_view line) {
  constexpr std::string_view kBlank = " \t\r";
  std::vector<std::string_view> words;
  for (;;) {
    const size_t begin = line.find_first_not_of(kBlank);
    if (begin == std::string_view::npos) return words;
    line.remove_prefix(begin);
    const size_t end = std::min(line.find_first_of(kBlank), line.size());
    words.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
}

// What is wrong with the line; empty: `permission` and `key` are what it says.
std::string parse_line(std::vector<std::string_view> words, Permission& permission,
                       std::string& key) {
  const auto role = std::ranges::find(kRoles, words[0]);
  if (role == kRoles.end()) {
    return "\"" + std::string(words[0]) + "\" is no role: write client, worker or admin";
  }
  permission.role = Role(role - kRoles.begin());
  const bool worker = permission.role == Role::worker;
  const size_t expected = worker ? 2 : 3;
  if (words.size() == expected + 1 && words[expected - 1] == "public") {
    words.erase(words.end() - 2);  // as it stands in the file that `limpet keygen` makes
  }
  if (words.size() != expected) {
    return worker ? "write: worker KEY" : "write: " + std::string(words[0]) + " TENANT KEY";
  }
  if (!worker) {
    if (!is_tenant(words[1])) {
      return kTenantNames;
    }
    permission.tenant = words[1];
  }
  key = words.back();
  return keys::is_key(key) ? "" : "\"" + key + "\" is no public key of 40 characters";
}

}  // namespace

bool is_tenant(std::string_view s) {
  constexpr size_t kMostBytes = 64;
  return !s.empty() && s.size() <= kMostBytes && std::ranges::all_of(s, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '.' || c == '_' || c == '-';
  });
}

std::string_view name(Role role) { return kRoles[static_cast<size_t>(role)]; }

const Permission* AllowList::find(std::string_view public_key) const {
  const auto it = keys_.find(public_key);
  return it == keys_.end() ? nullptr : &it->second;
}

ParsedAllowList parse_allow_list(std::string_view text) {
  ParsedAllowList parsed;
  const auto fail = [&](int line, const std::string& why) {
    return ParsedAllowList{{}, "line " + std::to_string(line) + ": " + why};
  };
  for (int line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    const auto words = words_of(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (words.empty() || words[0].starts_with('#')) continue;
    Permission permission;
    std::string key;
    if (std::string wrong = parse_line(words, permission, key); !wrong.empty()) {
      return fail(line, wrong);
    }
    if (!parsed.list.keys_.emplace(key, std::move(permission)).second) {
      return fail(line, "the key " + key + " is listed above already");
    }
  }
  if (parsed.list.size() == 0) {  // as a file that is just being written, or cut, does
    parsed.error =
        "it lists nobody; a line is `client TENANT KEY`, `admin TENANT KEY` or `worker KEY`";
  }
  return parsed;
}

}  // namespace limpet::broker
