#include "engine/chat_template_json.h"

#include <nlohmann/json.hpp>

namespace limpet::engine::jinja {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxText = 1u << 20;  // bytes
constexpr size_t kMaxOpen = 60;        // containers in containers
constexpr size_t kMaxMembers = 1024;   // of one object

// Receives a parse event by event, so what is refused is refused before it is built.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Dict result;

  bool null() override { return add(Value(None{})); }
  bool boolean(bool value) override { return add(Value(value)); }
  bool number_integer(int64_t value) override { return add(Value(value)); }
  bool number_unsigned(uint64_t value) override {
    return add(value > INT64_MAX ? Value(static_cast<double>(value))
                                 : Value(static_cast<int64_t>(value)));
  }
  bool number_float(double value, const std::string&) override { return add(Value(value)); }
  bool string(std::string& value) override { return add(Value::text(std::move(value))); }
  bool binary(Json::binary_t&) override { return false; }
  bool start_object(size_t) override { return open(true); }
  bool start_array(size_t) override { return open(false); }
  bool key(std::string& name) override {
    if (open_.back().members.size() >= kMaxMembers) {
      throw TemplateError("the variables have too many members");
    }
    open_.back().key = std::move(name);
    return true;
  }
  bool end_object() override {
    Dict members = std::move(open_.back().members);
    open_.pop_back();
    if (open_.empty()) {
      result = std::move(members);
      return true;
    }
    return add(Value::dict(std::move(members)));
  }
  bool end_array() override {
    List items = std::move(open_.back().items);
    open_.pop_back();
    return add(Value::list(std::move(items)));
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  struct Container {
    bool object = false;
    Dict members;
    List items;
    std::string key;
  };
  bool open(bool object) {
    if (open_.empty() && !object) return false;
    if (open_.size() >= kMaxOpen) throw TemplateError("the variables are nested too deeply");
    open_.push_back({object, {}, {}, {}});
    return true;
  }
  bool add(Value value) {
    if (open_.empty()) return false;
    Container& into = open_.back();
    if (into.object) {
      assign(into.members, into.key, std::move(value));
    } else {
      into.items.push_back(std::move(value));
    }
    return true;
  }
  std::vector<Container> open_;
};

}  // namespace

Dict dict_from_json(std::string_view json) {
  if (json.size() > kMaxText) throw TemplateError("the variables are too large");
  Builder builder;
  if (!Json::sax_parse(json, &builder)) {
    throw TemplateError("the variables must be a JSON object");
  }
  return std::move(builder.result);
}

}  // namespace limpet::engine::jinja
