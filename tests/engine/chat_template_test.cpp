#include "engine/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace limpet::engine {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // dictionaries keep their order in a template
using Messages = std::vector<TemplateMessage>;

const Messages kTalk{
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", "Hello."}, {"user", "Bye"}};
const char* const kVariables = R"({"n": null, "xs": [3, 1, 2], "words": ["b", "A", "c"],
    "d": {"k": "v", "z": [1, {"q": 2.5}]}, "s": "Hello W\u00f6rld", "e": [],
    "people": [{"name": "Ada", "age": 36}, {"name": "Bob", "age": 7}]})";

// What the template gives, or "! " and the error.
std::string show(const std::string& source, const Messages& messages = kTalk) {
  try {
    const auto t = ChatTemplate::parse(source, {{"bos_token", "<s>"}});
    const Rendered r = t.render(messages, {true, 1700000000, kVariables});
    return r.ok() ? r.text : "! " + r.error;
  } catch (const std::runtime_error& e) {
    return std::string("! ") + e.what();
  }
}

// Against Jinja2 itself, in the environment of Hugging Face's transformers (make_cases.py).
TEST(ChatTemplate, RendersAsJinjaDoes) {
  std::ifstream in("tests/golden/chat_templates/cases.json");
  const Json golden = Json::parse(in);
  Messages messages;
  for (const Json& m : golden["messages"]) messages.push_back({m["role"], m["content"]});
  ASSERT_GE(golden["cases"].size(), 60u);
  for (const Json& c : golden["cases"]) {
    const auto source = c["source"].get<std::string>();
    std::string got;
    try {
      const Rendered r = ChatTemplate::parse(source).render(
          messages, {true, golden["now"].get<int64_t>(), golden["variables"].dump()});
      got = r.ok() ? r.text : r.error;
    } catch (const std::runtime_error& e) {
      got = e.what();
    }
    EXPECT_EQ(got, c["text"].get<std::string>()) << source;
  }
}

// The templates of Llama 3, Qwen 2.5 and 3, Mistral and Phi, with system messages, tools, calls of
// tools and their answers, against Jinja2 (make_models.py).
TEST(ChatTemplate, RendersTheTemplatesOfModelsAsJinjaDoes) {
  std::ifstream in("tests/golden/chat_templates/models.json");
  const Json golden = Json::parse(in);
  ASSERT_GE(golden["cases"].size(), 50u);
  size_t refused = 0;
  for (const Json& c : golden["cases"]) {
    const auto name = c["template"].get<std::string>();
    std::ifstream file("tests/golden/chat_templates/models/" + name);
    const std::string source{std::istreambuf_iterator<char>(file), {}};
    // Messages with calls of tools have more than a role and a content.
    Json variables = c["variables"];
    variables["conversation"] = variables["messages"];
    variables.erase("messages");
    const RenderOptions options{variables["add_generation_prompt"].get<bool>(),
                                golden["now"].get<int64_t>(), variables.dump()};
    const Rendered r = ChatTemplate::parse("{%- set messages = conversation -%}" + source)
                           .render({}, options);
    if (c.contains("error")) {
      ++refused;
      EXPECT_EQ(r.error, "the chat template refuses these messages: " +
                             c["error"].get<std::string>()) << name;
    } else {
      EXPECT_EQ(r.error, "") << name;
      EXPECT_EQ(r.text, c["text"].get<std::string>()) << name;
    }
  }
  EXPECT_GE(refused, 3u);
}

TEST(ChatTemplate, ErrorsNameTheirLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n{% if x %}", "line 2: the template ends where {% endif %} is expected"},
      {"{{ 'a }}", "line 1: a string is not closed"},
      {"\n\n{{ a b }}", "line 3: expected }}, not b"},
      {"{% frobnicate %}", "line 1: the block {% frobnicate %} is unknown or out of place"},
      {"{{ a[ }}", "line 1: unexpected }"},
      {"{# a", "line 1: a comment {# is not closed"},
      {"{{ a ? b }}", "line 1: unexpected character ?"},
      {"{% break %}", "line 1: {% break %} outside of a loop"},
  };
  for (const auto& [source, error] : cases) EXPECT_EQ(show(source), std::string("! ") + error);
  const std::pair<const char*, const char*> at_run[] = {
      {"\n{{ nothing.at.all }}", "line 2: nothing is undefined, so it has no at"},
      {"{{ nothing() }}", "line 1: nothing is undefined, so it cannot be called"},
      {"{{ 'a' + 1 }}", "line 1: cannot use + on string and integer"},
      {"{{ 1 / 0 }}", "line 1: division by zero"},
      {"{{ s | sparkle }}", "line 1: the filter sparkle is not supported"},
      {"{{ s is sparkly }}", "line 1: the test sparkly is not supported"},
      {"{% set n.x = 1 %}", "line 1: n is no namespace, so x cannot be set on it"},
      {"{% for a, b in xs %}{% endfor %}", "line 1: a value of type integer has no items"},
      {"{{ 9223372036854775807 + 1 }}", "line 1: a number is too large"},
  };
  for (const auto& [source, error] : at_run) {
    EXPECT_EQ(show(source), std::string("! the chat template failed: ") + error);
  }
  EXPECT_EQ(show("{{ raise_exception('roles must alternate') }}"),
            "! the chat template refuses these messages: roles must alternate");
}

// Whatever a template does, it ends soon and holds little.
TEST(ChatTemplate, IsBounded) {
  const std::string ten = "[0,1,2,3,4,5,6,7,8,9]";
  std::string loops, ends, deep_list, deep_blocks;
  for (int i = 0; i < 12; ++i) {
    loops += "{% for a in " + ten + " %}";
    ends += "{% endfor %}";
  }
  deep_list = std::string(100'000, '[') + std::string(100'000, ']');
  for (int i = 0; i < 100'000; ++i) deep_blocks += "{% if 1 %}";
  std::string long_sum = "{{ 1";
  for (int i = 0; i < 100'000; ++i) long_sum += "+1";
  const std::string grow = "{% set n = namespace(v='x', l=[1]) %}{% for i in range(200) %}";
  const std::pair<std::string, const char*> cases[] = {
      {loops + "{% set x = 1 %}" + ends, "too m"},
      {"{% for i in range(1000000000) %}{% endfor %}", "too long"},
      {"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "too m"},
      {grow + "{% set n.v = n.v ~ n.v %}{% endfor %}", "too much text"},
      {grow + "{% set n.v = n.v * 1000000 %}{% endfor %}", "too much text"},
      {grow + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}", "too large"},
      {grow + "{% set n.l = [n.l] %}{% endfor %}", "nested too deeply"},
      {grow + "{% for x in [n.l] %}{% set n.l = loop %}{% endfor %}{% endfor %}", "nested too"},
      {"{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "calls itself too deeply"},
      {"{{ " + deep_list + " }}", "nested too deeply"},
      {deep_blocks, "nested too deeply"},
      {long_sum + " }}", "too long"},
      {std::string(2 << 20, ' '), "too large"},
      {"{{ 'x' * -1 }}{{ 'x' * 9223372036854775807 }}", "too much text"},
      {"{% for i in range(99999) %}{{ 'xxxxxxxxxx' * 1000 }}{% endfor %}", "too much text"},
      {"{{ s | replace('', s * 10000) | replace('', s * 10000) }}", "too much text"},
      {"{{ 2 ** 64 }}", "too large"},
      {"{{ strftime_now('%c' * 1000) }}", "too long"},
  };
  const auto start = std::chrono::steady_clock::now();
  for (const auto& [source, error] : cases) {
    const std::string got = show(source);
    EXPECT_NE(got.find(error), std::string::npos)
        << source.substr(0, 100) << " gave " << got.substr(0, 100);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
  // A namespace may hold itself; nothing leaks and nothing hangs.
  EXPECT_EQ(show("{% set n = namespace() %}{% set n.me = n %}{{ n.me.me == n }}"), "True");
}

TEST(ChatTemplate, TakesLongConversations) {
  Messages messages;
  for (int i = 0; i < 4096; ++i) {
    messages.push_back({i % 2 == 0 ? "user" : "assistant", std::string(1000, 'x')});
  }
  const auto tiny = ChatTemplate::load("models/limpet-tiny");
  const Rendered r = tiny.render(messages, {});
  EXPECT_TRUE(r.ok()) << r.error;
  EXPECT_GT(r.text.size(), 4'096'000u);
}

// ---- Model folders -----------------------------------------------------------------------------

class Folders : public testing::Test {
 protected:
  Folders() : folder_(fs::path(testing::TempDir()) / "limpet_chat_template_test") {
    fs::create_directories(folder_);
  }
  ~Folders() override { fs::remove_all(folder_); }
  void write(const char* name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  std::string rendered() {
    const Rendered r = ChatTemplate::load(folder_).render(kTalk, {});
    return r.ok() ? r.text : "! " + r.error;
  }
  fs::path folder_;
};

TEST_F(Folders, TemplatesAreFoundWhereTheyAre) {
  EXPECT_TRUE(ChatTemplate::load(folder_).empty());
  EXPECT_EQ(rendered(),
            "! the model has no chat template; send text or tokens instead of messages");
  write("tokenizer_config.json", R"({"bos_token": {"content": "<b>"}, "eos_token": "<e>",
      "chat_template": [{"name": "tool_use", "template": "no"},
                        {"name": "default", "template": "{{ bos_token }}yes{{ eos_token }}"}]})");
  EXPECT_EQ(rendered(), "<b>yes<e>");
  write("tokenizer_config.json", R"({"chat_template": "one{{ bos_token }}{{ unk_token }}",
      "bos_token": null})");
  EXPECT_EQ(rendered(), "one");
  write("special_tokens_map.json", R"({"unk_token": {"content": "<u>"}})");
  EXPECT_EQ(rendered(), "one<u>");
  write("chat_template.jinja", "file{{ messages | length }}\n");
  EXPECT_EQ(rendered(), "file4");
}

TEST_F(Folders, BadOnesAreRefusedByName) {
  const auto refusal = [this] {
    try {
      ChatTemplate::load(folder_);
    } catch (const std::runtime_error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  write("tokenizer_config.json", "{");
  EXPECT_NE(refusal().find("tokenizer_config.json"), std::string::npos);
  write("tokenizer_config.json", R"({"chat_template": 7})");
  EXPECT_NE(refusal().find("neither a string nor a list"), std::string::npos);
  write("tokenizer_config.json", R"({"chat_template": "{% for %}"})");
  EXPECT_NE(refusal().find("line 1: expected a name"), std::string::npos);
}

TEST(ChatTemplate, ExtraVariablesAreChecked) {
  const auto t = ChatTemplate::parse("{{ x }}");
  const auto error = [&](const std::string& extra) { return t.render({}, {true, 0, extra}).error; };
  EXPECT_EQ(t.render({}, {true, 0, R"({"x": [1, "a", null, true]})"}).text, "[1, 'a', None, True]");
  EXPECT_NE(error("[1]").find("must be a JSON object"), std::string::npos);
  EXPECT_NE(error("{\"x\": ").find("must be a JSON object"), std::string::npos);
  EXPECT_NE(error("{\"x\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}")
                .find("nested too deeply"),
            std::string::npos);
  // The messages are the caller's.
  const auto m = ChatTemplate::parse("{{ messages | length }}");
  EXPECT_EQ(m.render(kTalk, {true, 0, R"({"messages": []})"}).text, "4");
}

// ---- Sessions ----------------------------------------------------------------------------------

class Sessions : public testing::Test {
 protected:
  Tokenizer tokenizer_ = Tokenizer::load("models/limpet-tiny");
  ChatTemplate template_ = ChatTemplate::load("models/limpet-tiny");

  std::vector<Token> prompt(std::vector<Token> tail, const Messages& messages) {
    const TokenIds ids = prompt_tokens(tokenizer_, template_, tail, messages, {});
    EXPECT_TRUE(ids.ok()) << ids.error;
    return ids.ids;
  }
  static void append(std::vector<Token>& to, const std::vector<Token>& ids) {
    to.insert(to.end(), ids.begin(), ids.end());
  }
};

// Turn by turn, without history, gives the tokens of the whole conversation rendered at once.
TEST_F(Sessions, TurnsAddUpToTheWholeConversation) {
  const Messages whole{{"user", "My name is Ada."},
                       {"assistant", "Hello Ada."},
                       {"user", "What is my name?"},
                       {"assistant", "Ada."},
                       {"user", "Bye"}};
  std::vector<Token> session;
  for (size_t i = 0; i < whole.size(); i += 2) {
    append(session, prompt(session, {whole[i]}));
    if (i + 1 == whole.size()) break;
    append(session, tokenizer_.encode(whole[i + 1].content, false).ids);
    if (i == 0) session.push_back(*tokenizer_.find("<|im_end|>"));  // the second ran into a limit
  }
  EXPECT_EQ(session, prompt({}, whole));
}

TEST_F(Sessions, ADeltaIsWhatFollowsTheAnswer) {
  const Messages next{{"user", "LimpetAnswer0End"}};  // looks like the mark that is cut at
  const Rendered delta = template_.render_delta(next, {});
  EXPECT_EQ(delta.text,
            "<|im_end|>\n<|im_start|>user\nLimpetAnswer0End<|im_end|>\n<|im_start|>assistant\n");
  const Token end = *tokenizer_.find("<|im_end|>");
  const Token other = *tokenizer_.find("<|endoftext|>");
  const TokenIds all = tokenizer_.encode(delta.text, false);
  EXPECT_EQ(prompt({other}, next), all.ids);
  const std::vector<Token> rest(all.ids.begin() + 1, all.ids.end());
  EXPECT_EQ(prompt({end}, next), rest);
  EXPECT_EQ(prompt({5, end}, next), rest);
  // A session that was cut after the line's end has that, too.
  EXPECT_EQ(prompt({end, all.ids[1]}, next), std::vector<Token>(rest.begin() + 1, rest.end()));
}

TEST_F(Sessions, WhatCannotBeContinuedIsAnError) {
  const auto last_only = ChatTemplate::parse("{{ messages[-1].content }}");
  const TokenIds ids =
      prompt_tokens(tokenizer_, last_only, std::vector<Token>{1}, Messages{{"user", "a"}}, {});
  EXPECT_NE(ids.error.find("cannot continue a session"), std::string::npos);
  EXPECT_FALSE(prompt_tokens(tokenizer_, template_, {}, {}, {}).ok());
  EXPECT_FALSE(prompt_tokens(tokenizer_, ChatTemplate(), {}, kTalk, {}).ok());
  EXPECT_FALSE(prompt_tokens(tokenizer_, ChatTemplate::parse(""), {}, kTalk, {}).ok());
}

TEST_F(Sessions, ASpaceBeforeTheEndTokenIsNoObstacle) {
  const auto spaced =
      ChatTemplate::parse("{% for m in messages %}[{{ m.content }} <|im_end|>]{% endfor %}");
  const Token end = *tokenizer_.find("<|im_end|>");
  const TokenIds ids =
      prompt_tokens(tokenizer_, spaced, std::vector<Token>{9, end}, Messages{{"user", "a"}}, {});
  EXPECT_EQ(ids.ids, tokenizer_.encode("][a <|im_end|>]", false).ids);
}

}  // namespace
}  // namespace limpet::engine
