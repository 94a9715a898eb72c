// SPDX-License-Identifier: Apache-2.0
#include "chat/chat_template.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

namespace plumb {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

ordered_json read_cases() {
  std::ifstream file(fs::path(PLUMB_SOURCE_DIR) / "tests/chat/cases.json");
  return ordered_json::parse(file);
}

std::vector<std::vector<ChatMessage>> lists_of(const ordered_json& cases) {
  std::vector<std::vector<ChatMessage>> lists;
  for (const auto& list : cases["lists"]) {
    lists.emplace_back();
    for (const auto& message : list) lists.back().push_back({message[0], message[1]});
  }
  return lists;
}

RenderOptions options_of(const ordered_json& cases) {
  RenderOptions options;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  options.now = std::chrono::sys_seconds(std::chrono::seconds(cases["now"].get<int64_t>()));
  return options;
}

Result<std::string> render(const std::string& source, const std::vector<ChatMessage>& messages = {},
                           const RenderOptions& options = {}) {
  TRY_ASSIGN(const auto chat, ChatTemplate::parse(source));
  return chat.render(messages, options);
}

// The message of the error that `source` must give, or a note that it gave none.
std::string error_of(const std::string& source) {
  const auto text = render(source);
  return text ? fmt::format("no error, but '{}'", *text) : text.error().message;
}

void expect_in(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

// Jinja2, set up as transformers sets it up, rendered each of these; errors must be errors.
TEST(ChatTemplate, AgreesWithJinja2OnTheFamilies) {
  const auto cases = read_cases();
  const auto lists = lists_of(cases);
  size_t texts = 0, errors = 0;
  for (const auto& entry : cases["templates"]) {
    const auto chat = ChatTemplate::parse(entry["source"]);
    ASSERT_TRUE(chat) << entry["name"] << ": " << chat.error().message;
    for (const auto& one : entry["cases"]) {
      auto options = options_of(cases);
      options.add_generation_prompt = one["generate"];
      if (one.contains("extra")) options.extra = one["extra"];
      const auto text = chat->render(lists[one["list"].get<size_t>()], options);
      const auto where =
          fmt::format("{}, list {}", entry["name"].get<std::string>(), one["list"].dump());
      if (one.contains("error")) {
        ++errors;
        ASSERT_FALSE(text) << where << ": Jinja2 says " << one["error"];
        EXPECT_NE(text.error().code, ErrorCode::Unsupported)
            << where << ": " << text.error().message;
      } else {
        ++texts;
        ASSERT_TRUE(text) << where << ": " << text.error().message;
        EXPECT_EQ(*text, one["text"].get<std::string>()) << where;
      }
    }
  }
  EXPECT_GE(texts, 600u);
  EXPECT_GE(errors, 50u);
}

TEST(ChatTemplate, AgreesWithJinja2OnEachConstruct) {
  const auto cases = read_cases();
  const auto messages = lists_of(cases)[3];
  const auto options = options_of(cases);
  EXPECT_GE(cases["expressions"].size(), 280u);
  for (const auto& one : cases["expressions"]) {
    const std::string source = one["source"];
    const auto text = render(source, messages, options);
    if (one.contains("error")) {
      ASSERT_FALSE(text) << source << " gives '" << *text << "'; Jinja2 says " << one["error"];
      EXPECT_NE(text.error().code, ErrorCode::Unsupported)
          << source << ": " << text.error().message;
    } else {
      ASSERT_TRUE(text) << source << ": " << text.error().message;
      EXPECT_EQ(*text, one["text"].get<std::string>()) << source;
    }
  }
}

TEST(ChatTemplate, RefusesByNameWithThePlaceAndAWayAround) {
  const std::pair<const char*, const char*> refused[] = {
      {"ab\n  {% include 'x' %}", "line 2, column 6: the tag 'include' is not supported"},
      {"{{ 'a' | urlencode }}", "line 1, column 10: the filter 'urlencode' is not supported"},
      {"{{ 'a'.zfill(3) }}", "the method 'zfill' of a string is not supported"},
      {"{{ ''.__class__ }}", "the attribute '__class__' is not supported"},
      {"{{ lipsum() }}", "the function 'lipsum' is not supported"},
      {"{{ foo(*bar) }}", "'*' before an argument is not supported"},
      {"{{ 9223372036854775807 + 1 }}", "an integer of more than 64 bits is not supported"},
      {"{{ 99999999999999999999 }}", "line 1, column 4: an integer of more than 64 bits is not"},
      {"{{ 0x10 }}", "a number that is not decimal is not supported"},
      {"{{ é }}", "a name with letters beyond ASCII is not supported"},
      {"{% for a in b recursive %}{% endfor %}", "a recursive for is not supported"},
      {"{{ range }}", "printing a value of type function is not supported"},
      {"{% for i in [1] %}{{ messages }}{% endfor %}{% set messages = 1 %}",
       "line 1, column 52: setting 'messages' behind a block that reads it is not supported"},
  };
  for (const auto& [source, message] : refused) {
    const auto text = error_of(source);
    expect_in(text, message);
    expect_in(text, "--prompt-file");
  }
}

TEST(ChatTemplate, QuotesWhatTheTemplateRaises) {
  const auto text = render("\n{{ raise_exception('roles must ' ~ 'alternate') }}");
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code, ErrorCode::Usage);
  EXPECT_EQ(text.error().message,
            "chat template: line 2, column 4: the template does not take this chat: roles must "
            "alternate");
}

TEST(ChatTemplate, DatesComeFromTheCallerAlone) {
  expect_in(error_of("{{ strftime_now('%Y') }}"), "today's date");
  RenderOptions options;
  options.now = std::chrono::sys_days(std::chrono::year(2028) / 2 / 29) + std::chrono::hours(13);
  const auto text = render("{{ strftime_now('%d %B %Y, %A %-I %p, day %j') }}", {}, options);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(*text, "29 February 2028, Tuesday 1 PM, day 060");
}

TEST(ChatTemplate, ATokenThatTheModelLacksIsUndefined) {
  EXPECT_EQ(*render("{{ bos_token is defined }}{{ tools is none }}"), "FalseTrue");
  expect_in(error_of("{{ bos_token + 'x' }}"), "'bos_token' is undefined");
}

TEST(ChatTemplate, TakesMoreNamesAndKeepsTheirOrder) {
  RenderOptions options;
  options.extra =
      ordered_json::parse(R"({"enable_thinking": false, "x": {"b": 1, "a": [null, 2.5]}})");
  EXPECT_EQ(*render("{{ enable_thinking }} {{ x }} {{ x | tojson }}", {}, options),
            R"(False {'b': 1, 'a': [None, 2.5]} {"b": 1, "a": [null, 2.5]})");
  options.extra = 5;
  EXPECT_FALSE(render("x", {}, options));
}

TEST(ChatTemplate, RefusesBytesThatAreNoText) {
  expect_in(error_of("{{ 1 }}\xFF"), "not UTF-8");
  const auto text = render("x", {{"user", "\xC0\x80"}});
  ASSERT_FALSE(text);
  expect_in(text.error().message, "not UTF-8");
}

// --- hostile templates: each must end, soon and with an error ---

std::string repeat(const std::string& text, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += text;
  return out;
}

TEST(ChatTemplateLimits, NestingInTheTemplate) {
  constexpr size_t kDeep = 100'000;
  expect_in(error_of("{{ " + repeat("(", kDeep) + repeat(")", kDeep) + " }}"),
            "nesting deeper than");
  expect_in(error_of("{{ " + repeat("[", kDeep) + repeat("]", kDeep) + " }}"),
            "nesting deeper than");
  expect_in(error_of("{{ " + repeat("{1:", kDeep) + repeat("}", kDeep) + " }}"),
            "nesting deeper than");
  expect_in(error_of("{{ " + repeat("-", kDeep) + "1 }}"), "nesting deeper than");
  expect_in(error_of("{{ " + repeat("not ", kDeep) + "1 }}"), "an expression deeper than");
  expect_in(error_of("{{ " + repeat("a if b else ", kDeep / 2) + "1 }}"), "nesting deeper than");
  expect_in(error_of(repeat("{% if 1 %}", kDeep)), "nesting deeper than");
  expect_in(error_of(repeat("{% for a in b %}", kDeep / 2)), "nesting deeper than");
  expect_in(error_of("{{ 1" + repeat(" + 1", kDeep) + " }}"), "an expression deeper than");
  expect_in(error_of("{{ a" + repeat(".b", kDeep) + " }}"), "an expression deeper than");
  expect_in(error_of("{{ a" + repeat("|e", kDeep) + " }}"), "an expression deeper than");
  expect_in(error_of("{% if 1 %}" + repeat("{% elif 1 %}", 80'000) + "{% endfor %}"),
            "unknown tag");
  expect_in(error_of(std::string((1 << 20) + 1, 'x')), "a template of 1048577 bytes");
}

TEST(ChatTemplateLimits, NestingThatIsStillFine) {
  EXPECT_EQ(*render("{{ " + repeat("(", 50) + "1" + repeat(")", 50) + " }}"), "1");
  EXPECT_EQ(*render("{{ 0" + repeat(" + 1", 200) + " }}"), "200");
  EXPECT_EQ(*render(repeat("{% if 1 %}", 100) + "x" + repeat("{% endif %}", 100)), "x");
}

TEST(ChatTemplateLimits, CallsWithoutAnEnd) {
  expect_in(error_of("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), "nests calls deeper than");
  expect_in(error_of("{% macro f(a=f()) %}{% endmacro %}{{ f() }}"), "nests calls deeper than");
}

TEST(ChatTemplateLimits, StepsAndOutput) {
  const std::string loops = "{% for a in range(99999) %}{% for b in range(99999) %}";
  const std::string ends = "{% endfor %}{% endfor %}";
  expect_in(error_of(loops + ends), "stopped");
  expect_in(error_of("{% for a in range(99999) %}" + std::string(1000, 'x') + "{% endfor %}"),
            "makes a text of more bytes than");
  expect_in(error_of("{{ 'x' * 99999999999 }}"), "makes a text of more bytes than");
  expect_in(error_of("{{ [1] * 99999999999 }}"), "makes more bytes of values than");
  expect_in(error_of("{{ '%1000000d' % 1 }}"), "a width of more than 1000");
}

TEST(ChatTemplateLimits, ValuesThatDouble) {
  const auto grow = [](const std::string& start, const std::string& step, const std::string& use) {
    return fmt::format(
        "{{% set n = namespace(x={}) %}}{{% for i in range(90000) %}}{{% set n.x = {} %}}{{% "
        "endfor %}}{{{{ {} }}}}",
        start, step, use);
  };
  expect_in(error_of(grow("'a'", "n.x + n.x", "1")), "makes a text of more bytes than");
  expect_in(error_of(grow("'a'", "n.x.replace('a', 'a' * 5000)", "1")),
            "makes a text of more bytes than");
  expect_in(error_of(grow("[]", "[n.x, n.x]", "n.x == n.x")), "stopped");
  expect_in(error_of(grow("[]", "[n.x]", "1")), "nests values deeper than");
  expect_in(error_of(grow("{}", "{'a': n.x}", "1")), "nests values deeper than");
  expect_in(error_of(grow("[]", "n.x + [i]", "1")), "stopped");
  expect_in(error_of(grow("1", "n.x ~ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'", "1")),
            "stopped");
}

TEST(ChatTemplateLimits, SearchesThatAreBuiltToBeSlow) {
  expect_in(
      error_of(
          "{% set a = 'a' * 8000000 %}{% set b = 'a' * 4000000 ~ 'b' %}{% for i in range(9999) %}"
          "{{ b in a }}{% endfor %}"),
      "stopped");
  expect_in(error_of("{{ ('a' * 8000000).rfind('b' ~ 'a' * 4000000) }}"), "stopped");
}

// A namespace may hold itself, and a macro the scope that holds it: nothing may leak or hang.
TEST(ChatTemplateLimits, ValuesThatHoldThemselves) {
  EXPECT_EQ(
      *render(
          "{% set n = namespace() %}{% set n.a = n %}{% set n.b = [n] %}{{ n.a.a.b[0].a == n }}"),
      "True");
  EXPECT_EQ(
      *render("{% set n = namespace() %}{% for i in [1, 2] %}{% macro f() %}{{ i }}{% endmacro %}"
              "{% set n.f = f %}{% endfor %}{{ n.f() }}"),
      "2");
  EXPECT_EQ(*render("{% set n = namespace() %}{% for i in [1, 2] %}{% set n.l = loop %}{% endfor "
                    "%}{{ n.l.index }}"),
            "2");
}

// One parsed template may be rendered by several threads.
TEST(ChatTemplate, IsNotChangedByRendering) {
  const auto chat =
      ChatTemplate::parse("{% set l = [1, 2] | map('string') %}{{ l | join }}{{ 'a' 'b' }}");
  ASSERT_TRUE(chat) << chat.error().message;
  std::vector<std::thread> threads;
  std::vector<std::string> texts(4);
  for (auto& text : texts)
    threads.emplace_back([&chat, &text] {
      for (int i = 0; i < 100; ++i) text = chat->render({}, {}).value_or("error");
    });
  for (auto& thread : threads) thread.join();
  for (const auto& text : texts) EXPECT_EQ(text, "12ab");
}

// --- where a template is found ---

TEST(FindChatTemplate, InTheMetadataOfEachFormat) {
  ModelFile file;
  file.path = "m.gguf";
  file.metadata["tokenizer.chat_template"] = std::string("one");
  EXPECT_EQ(*find_chat_template(file), "one");
  file.metadata = {{"tokenizer.chat_template.default", std::string("two")},
                   {"tokenizer.chat_template.tool_use", std::string("no")}};
  EXPECT_EQ(*find_chat_template(file), "two");
  file.metadata = {{"tokenizer_config.chat_template", std::string("three")}};
  EXPECT_EQ(*find_chat_template(file), "three");
  const std::vector<MetadataValue> list = {std::string(R"({"name":"tool_use","template":"no"})"),
                                           std::string(R"({"name":"default","template":"four"})")};
  file.metadata = {{"tokenizer_config.chat_template", std::make_shared<const MetadataArray>(list)}};
  EXPECT_EQ(*find_chat_template(file), "four");
}

TEST(FindChatTemplate, InFilesBesideTheWeights) {
  const fs::path folder = fs::path(testing::TempDir()) / "plumb_chat_template";
  fs::create_directories(folder);
  std::ofstream(folder / "chat_template.jinja") << "from jinja\n";
  std::ofstream(folder / "chat_template.json") << R"({"chat_template": "from json"})";
  std::ofstream(folder / "odd.json") << R"(["chat_template"])";
  ModelFile file;
  file.side_files["chat_template.json"] = folder / "chat_template.json";
  EXPECT_EQ(*find_chat_template(file), "from json");
  file.metadata["tokenizer_config.chat_template"] = std::string("from config");
  EXPECT_EQ(*find_chat_template(file), "from config");
  file.side_files["chat_template.jinja"] = folder / "chat_template.jinja";
  EXPECT_EQ(*find_chat_template(file), "from jinja\n");
  file = {};
  file.side_files["chat_template.json"] = folder / "odd.json";
  EXPECT_EQ(find_chat_template(file).error().code, ErrorCode::Corrupt);
  fs::remove_all(folder);
}

TEST(FindChatTemplate, SaysWhatToDoWithoutOne) {
  ModelFile file;
  file.path = "m.gguf";
  const auto text = find_chat_template(file);
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code, ErrorCode::NotFound);
  for (const auto* part : {"m.gguf", "--chat-template NAME|FILE", "chatml", "-p", "--prompt-file"})
    expect_in(text.error().message, part);
}

TEST(NamedChatTemplate, EachIsKnownUnderItsFamily) {
  const std::vector<ChatMessage> chat = {
      {"system", "S"}, {"user", "U"}, {"assistant", "A"}, {"user", "V"}};
  RenderOptions options;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  for (const std::string name :
       {"chatml", "llama2", "llama-2", "llama3", "gemma", "phi3", "mistral", "zephyr", "deepseek",
        "command-r", "vicuna", "alpaca"}) {
    const auto named = named_chat_template(name);
    ASSERT_TRUE(named) << named.error().message;
    const auto text = named->render(chat, options);
    ASSERT_TRUE(text) << name << ": " << text.error().message;
    for (const auto* part : {"S", "U", "A", "V"}) expect_in(*text, part);
  }
  EXPECT_EQ(*named_chat_template("chatml")->render(chat, options),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>"
            "assistant\nA<|im_end|>\n"
            "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(*named_chat_template("llama-2")->render(chat, options),
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]");
  expect_in(named_chat_template("nope").error().message,
            "no chat template is named 'nope'; names: chatml, llama-2");
}

TEST(ChatTemplateFamily, NamesWhatItKnows) {
  for (const auto* name :
       {"chatml", "llama-2", "llama-3", "gemma", "mistral", "command-r", "vicuna", "alpaca"})
    EXPECT_EQ(chat_template_family(std::string(named_chat_template_source(name))), name);
  EXPECT_EQ(chat_template_family("{{ messages }}"), "own");
}

}  // namespace
}  // namespace plumb
