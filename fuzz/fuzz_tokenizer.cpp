// SPDX-License-Identifier: Apache-2.0
// Any bytes as tokenizer.json or tokenizer.model: an Error, or a tokenizer whose ids lie in its
// vocabulary.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/check.h"
#include "tokenizer/sentencepiece_file.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_json.h"

namespace {

plumb::Result<plumb::Tokenizer> read(const uint8_t* data, size_t size) {
  if (size > 0 && data[0] == '{') {
    TRY_ASSIGN(auto rules,
               plumb::parse_tokenizer_json({reinterpret_cast<const char*>(data), size}));
    return plumb::Tokenizer::create(std::move(rules));
  }
  TRY_ASSIGN(auto vocabulary,
             plumb::parse_sentencepiece({reinterpret_cast<const std::byte*>(data), size}));
  return plumb::Tokenizer::create(std::move(vocabulary));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokenizer = read(data, size);
  if (!tokenizer) {
    CHECK(!tokenizer.error().message.empty());
    return 0;
  }
  using namespace std::string_view_literals;
  // The end of the file is a text too, so that the two can fit together.
  const std::string_view tail(
      reinterpret_cast<const char*>(data) + size - std::min(size, size_t{64}),
      std::min(size, size_t{64}));
  for (const auto text :
       {""sv, "Hi  it's 12345\n\t\xC3\xA9\xF0\x9F\xA6\x99</s>"sv, "\xFF\xC0\0a"sv, tail}) {
    const auto ids = tokenizer->encode(text, true, true);
    if (!ids) continue;
    for (const auto id : *ids) CHECK(id >= 0 && static_cast<size_t>(id) < tokenizer->size());
    plumb::StreamDecoder stream(*tokenizer, true);
    size_t bytes = 0;
    for (const auto id : *ids) bytes += stream.feed(id).size();
    CHECK(bytes + stream.flush().size() == tokenizer->decode(*ids).size());
  }
  return 0;
}
