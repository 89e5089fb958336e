// Who may connect: public keys, each with its role and tenant. Pure: from a text to a table.
//
// A line is `client TENANT KEY`, `admin TENANT KEY` or `worker KEY`; KEY may be `public KEY`, as
// key files have it. Empty lines, and those that begin with #, are skipped. A list of nobody is an
// error: that is what a file looks like before it is written.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

namespace limpet::broker {

enum class Role : uint8_t {
  client,
  worker,
  admin  // a client that sees every tenant's jobs and sessions in listings
};
std::string_view name(Role role);

// Whether a key can be of this tenant; else kTenantNames says what one is called.
bool is_tenant(std::string_view name);
inline constexpr const char* kTenantNames =
    "a tenant's name has 1 to 64 letters, digits, dots, dashes, underscores";

struct Permission {
  Role role = Role::client;
  std::string tenant;  // a worker has none
  bool operator==(const Permission&) const = default;
};

struct ParsedAllowList;

class AllowList {
 public:
  // Null: it may not connect. Lives as long as the list.
  const Permission* find(std::string_view public_key) const;
  size_t size() const { return keys_.size(); }

 private:
  friend ParsedAllowList parse_allow_list(std::string_view text);
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::unordered_map<std::string, Permission, Hash, std::equal_to<>> keys_;
};

struct ParsedAllowList {
  AllowList list;
  std::string error;  // "line 3: …", or of the whole; empty: the list is good
};
ParsedAllowList parse_allow_list(std::string_view text);

}  // namespace limpet::broker
