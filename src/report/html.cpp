// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "report/report.h"

namespace plumb {
namespace {

using Json = nlohmann::ordered_json;

const char kPage[] =
#include "report/report_page.inc"
    ;

constexpr std::string_view kDataMark = "@PLUMB_DATA@";
constexpr std::string_view kExtraMark = "@PLUMB_EXTRA@";

// JSON as it may stand in a script element. It has '<' only inside texts, where it may be written
// as a code: then nothing in a text can close the element or open a comment. It has line breaks
// only between values; without them and the indentation the file is smaller by a third.
std::string embed(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  bool indentation = false;
  for (const char c : json) {
    if (c == '\n') {
      indentation = true;
    } else if (c != ' ' || !indentation) {
      indentation = false;
      if (c == '<') {
        out += "\\u003c";
      } else {
        out += c;
      }
    }
  }
  return out;
}

bool is_from_zero(const std::vector<int32_t>& positions) {
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] != static_cast<int32_t>(i)) return false;
  }
  return true;
}

const Tokenizer* tokenizer_of(const Comparison& comparison) {
  for (const auto& side : comparison.sides) {
    if (side.model && side.model->tokenizer) return side.model->tokenizer.get();
  }
  return nullptr;
}

// What the page shows beyond the JSON report: which positions a step's values belong to, where they
// are not simply the first ones, and the texts of the tokens.
std::string extra_json(const Comparison& comparison) {
  Json positions = Json::object();
  for (const auto& row : comparison.steps) {
    Json sides = Json::object();
    if (row.baseline && !is_from_zero(row.baseline->positions)) {
      sides["baseline"] = row.baseline->positions;
    }
    if (row.candidate && !is_from_zero(row.candidate->positions)) {
      sides["candidate"] = row.candidate->positions;
    }
    if (!sides.empty()) positions[row.name] = std::move(sides);
  }
  Json texts = Json::object();  // by token id
  if (const auto* tokenizer = tokenizer_of(comparison)) {
    const auto add = [&](Token token) { texts[std::to_string(token)] = tokenizer->piece(token); };
    for (const auto& side : comparison.sides) {
      std::ranges::for_each(side.trace.tokens, add);
    }
    if (comparison.price && comparison.price->first_token_changed) {
      add(comparison.price->first_from);
      add(comparison.price->first_to);
    }
    if (comparison.outcome)
      for (const auto& prompt : comparison.outcome->prompts)
        if (const auto at = prompt.parting_position()) {
          add(prompt.positions[*at].from);
          add(prompt.positions[*at].to);
        }
  }
  const Json out = {{"positions", std::move(positions)}, {"token_texts", std::move(texts)}};
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string to_html(const Comparison& comparison) {
  const std::string_view page = kPage;
  const size_t data = page.find(kDataMark);
  const size_t extra = page.find(kExtraMark, data);
  std::string out(page.substr(0, data));
  out += embed(to_json(comparison));
  out += page.substr(data + kDataMark.size(), extra - data - kDataMark.size());
  out += embed(extra_json(comparison));
  out += page.substr(extra + kExtraMark.size());
  return out;
}

}  // namespace plumb
