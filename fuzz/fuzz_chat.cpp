// SPDX-License-Identifier: Apache-2.0
// Any bytes as a chat template: an Error, or a text of a size within the limit, for a small chat.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "chat/chat_template.h"
#include "core/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string source(reinterpret_cast<const char*>(data), size);
  const auto chat = plumb::ChatTemplate::parse(source);
  if (!chat) {
    CHECK(!chat.error().message.empty());
    return 0;
  }
  static const std::vector<plumb::ChatMessage> messages = {
      {"system", "Be \xC3\xA9."}, {"user", " a\nb "}, {"assistant", ""}, {"user", "1"}};
  plumb::RenderOptions options;
  options.bos_token = "<s>";
  options.now = std::chrono::sys_seconds(std::chrono::seconds(1720256703));
  options.extra["enable_thinking"] = false;
  const auto text = chat->render(messages, options);
  CHECK(text ? text->size() <= (16u << 20) : !text.error().message.empty());
  return 0;
}
