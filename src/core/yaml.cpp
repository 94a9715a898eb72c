// SPDX-License-Identifier: Apache-2.0
#include "core/yaml.h"

#include <fmt/format.h>
#include <yaml.h>

#include <memory>

namespace plumb {
namespace {

constexpr int kMaxDepth = 64;

class Reader {
 public:
  Reader(std::string_view text, std::string_view name) : name_(name) {
    yaml_parser_initialize(&parser_);
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text.data()),
                                 text.size());
  }
  ~Reader() { yaml_parser_delete(&parser_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  Result<YamlNode> document() {
    TRY(expect(YAML_STREAM_START_EVENT));
    TRY(next());
    if (event_->type == YAML_STREAM_END_EVENT) return error("the file is empty");
    TRY(next());
    TRY_ASSIGN(auto root, node(0));
    TRY(expect(YAML_DOCUMENT_END_EVENT));
    TRY(next());
    if (event_->type != YAML_STREAM_END_EVENT) return error("more than one document");
    return root;
  }

 private:
  struct EventDelete {
    void operator()(yaml_event_t* event) const {
      yaml_event_delete(event);
      delete event;
    }
  };

  std::unexpected<Error> error(std::string_view what) const {
    return fail(ErrorCode::Corrupt, fmt::format("{}: line {}: {}", name_, line(), what));
  }
  size_t line() const {
    return event_ ? event_->start_mark.line + 1 : parser_.problem_mark.line + 1;
  }

  Result<void> next() {
    auto* event = new yaml_event_t;
    if (yaml_parser_parse(&parser_, event) == 0) {
      delete event;
      event_.reset();
      return error(parser_.problem != nullptr ? parser_.problem : "not YAML");
    }
    event_.reset(event);
    return {};
  }
  Result<void> expect(yaml_event_type_t type) {
    TRY(next());
    if (event_->type != type) return error("not the document that was expected");
    return {};
  }

  // The node that the current event begins.
  Result<YamlNode> node(int depth) {
    if (depth > kMaxDepth) return error(fmt::format("nested deeper than {} levels", kMaxDepth));
    YamlNode out;
    out.line = line();
    switch (event_->type) {
      case YAML_SCALAR_EVENT:
        out.scalar.assign(reinterpret_cast<const char*>(event_->data.scalar.value),
                          event_->data.scalar.length);
        return out;
      case YAML_SEQUENCE_START_EVENT: return list(std::move(out), depth);
      case YAML_MAPPING_START_EVENT: return map(std::move(out), depth);
      case YAML_ALIAS_EVENT: return error("aliases (*name) are not taken: write the value out");
      default: return error("not a value");
    }
  }

  Result<YamlNode> list(YamlNode out, int depth) {
    out.kind = YamlNode::Kind::List;
    for (;;) {
      TRY(next());
      if (event_->type == YAML_SEQUENCE_END_EVENT) return out;
      TRY_ASSIGN(auto item, node(depth + 1));
      out.items.push_back(std::move(item));
    }
  }

  Result<YamlNode> map(YamlNode out, int depth) {
    out.kind = YamlNode::Kind::Map;
    for (;;) {
      TRY(next());
      if (event_->type == YAML_MAPPING_END_EVENT) return out;
      if (event_->type != YAML_SCALAR_EVENT) return error("a key must be text");
      TRY_ASSIGN(auto key, node(depth + 1));
      if (out.find(key.scalar) != nullptr)
        return error(fmt::format("the key '{}' comes twice", key.scalar));
      TRY(next());
      TRY_ASSIGN(auto value, node(depth + 1));
      out.keys.push_back(std::move(key.scalar));
      out.items.push_back(std::move(value));
    }
  }

  std::string name_;
  yaml_parser_t parser_{};
  std::unique_ptr<yaml_event_t, EventDelete> event_;
};

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (size_t i = 0; i < keys.size(); ++i)
    if (keys[i] == key) return &items[i];
  return nullptr;
}

Result<YamlNode> parse_yaml(std::string_view text, std::string_view name) {
  return Reader(text, name).document();
}

}  // namespace plumb
