// SPDX-License-Identifier: Apache-2.0
// Templates for models that bring none, one for each of the common families, and the names of
// families. tools/make_chat_cases.py reads the sources out of this file.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "chat/chat_template.h"

namespace plumb {
namespace {

struct NamedTemplate {
  std::string_view name, source;
};

// clang-format off
constexpr NamedTemplate kNamed[] = {
{"chatml", R"jinja({% for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{%- endif %})jinja"},

{"llama-2", R"jinja({{ bos_token }}
{%- set ns = namespace(system='', turn=0) %}
{%- for message in messages %}
  {%- if message.role == 'system' %}
    {%- set ns.system = '<<SYS>>\n' ~ message.content ~ '\n<</SYS>>\n\n' %}
  {%- elif message.role == 'user' %}
    {%- if ns.turn > 0 %}{{ bos_token }}{% endif %}
    {{- '[INST] ' ~ (ns.system ~ message.content) | trim ~ ' [/INST]' }}
    {%- set ns.system = '' %}
    {%- set ns.turn = ns.turn + 1 %}
  {%- elif message.role == 'assistant' %}
    {{- ' ' ~ message.content | trim ~ ' ' ~ eos_token }}
  {%- else %}
    {{- raise_exception('llama-2 has the roles system, user and assistant, not ' ~ message.role) }}
  {%- endif %}
{%- endfor %})jinja"},

{"llama-3", R"jinja({{ bos_token }}
{%- for message in messages %}
  {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ message.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %})jinja"},

{"gemma", R"jinja({{ bos_token }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
  {%- if message.role == 'system' %}
    {%- set ns.system = message.content | trim ~ '\n\n' %}
  {%- else %}
    {{- '<start_of_turn>' ~ ('model' if message.role == 'assistant' else message.role) ~ '\n' }}
    {{- ns.system ~ message.content | trim ~ '<end_of_turn>\n' }}
    {%- set ns.system = '' %}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<start_of_turn>model\n' }}
{%- endif %})jinja"},

{"phi-3", R"jinja({% for message in messages %}
<|{{ message.role }}|>
{{ message.content }}<|end|>
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>\n' }}
{%- endif %})jinja"},

{"mistral", R"jinja({{ bos_token }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
  {%- if message.role == 'system' %}
    {%- set ns.system = message.content ~ '\n\n' %}
  {%- elif message.role == 'user' %}
    {{- '[INST] ' ~ ns.system ~ message.content ~ ' [/INST]' }}
    {%- set ns.system = '' %}
  {%- elif message.role == 'assistant' %}
    {{- ' ' ~ message.content | trim ~ eos_token }}
  {%- else %}
    {{- raise_exception('mistral has the roles system, user and assistant, not ' ~ message.role) }}
  {%- endif %}
{%- endfor %})jinja"},

{"zephyr", R"jinja({% for message in messages %}
<|{{ message.role }}|>
{{ message.content ~ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>\n' }}
{%- endif %})jinja"},

{"deepseek", R"jinja({{ bos_token }}
{%- for message in messages %}
  {%- if message.role == 'user' %}
    {{- 'User: ' ~ message.content ~ '\n\n' }}
  {%- elif message.role == 'assistant' %}
    {{- 'Assistant: ' ~ message.content ~ eos_token }}
  {%- else %}
    {{- message.content ~ '\n\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- 'Assistant:' }}
{%- endif %})jinja"},

{"command-r", R"jinja({{ bos_token }}
{%- set tokens = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'} %}
{%- for message in messages %}
  {%- if message.role not in tokens %}
    {{- raise_exception('command-r has the roles system, user and assistant, not ' ~ message.role) }}
  {%- endif %}
  {{- '<|START_OF_TURN_TOKEN|><|' ~ tokens[message.role] ~ '_TOKEN|>' ~ message.content | trim ~ '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}
{%- endif %})jinja"},

{"vicuna", R"jinja({{ bos_token }}
{%- for message in messages %}
  {%- if message.role == 'user' %}
    {{- 'USER: ' ~ message.content | trim ~ ' ' }}
  {%- elif message.role == 'assistant' %}
    {{- 'ASSISTANT: ' ~ message.content | trim ~ eos_token }}
  {%- else %}
    {{- message.content | trim ~ ' ' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- 'ASSISTANT:' }}
{%- endif %})jinja"},

{"alpaca", R"jinja({{ bos_token }}
{%- for message in messages %}
  {%- if message.role == 'user' %}
    {{- '### Instruction:\n' ~ message.content | trim ~ '\n\n' }}
  {%- elif message.role == 'assistant' %}
    {{- '### Response:\n' ~ message.content | trim ~ eos_token ~ '\n\n' }}
  {%- else %}
    {{- message.content | trim ~ '\n\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '### Response:\n' }}
{%- endif %})jinja"},
};
// clang-format on

struct Marker {
  std::string_view text, family;
};
// The first that a template holds names its family. Those that hold others' markers come first.
constexpr Marker kMarkers[] = {
    {"<|start_header_id|>", "llama-3"},
    {"<|im_start|>", "chatml"},
    {"<start_of_turn>", "gemma"},
    {"<|START_OF_TURN_TOKEN|>", "command-r"},
    {"<\xEF\xBD\x9CUser\xEF\xBD\x9C>", "deepseek"},
    {"<|start_of_role|>", "granite"},
    {"<|channel|>", "gpt-oss"},
    {"<|end|>", "phi-3"},
    {"<<SYS>>", "llama-2"},
    {"[INST]", "mistral"},
    {"[gMASK]", "glm"},
    {"<|user|>", "zephyr"},
    {"### Instruction:", "alpaca"},
    {"USER: ", "vicuna"},
};

// "LLAMA_2" and "llama2" are "llama-2".
std::string plain(std::string_view name) {
  std::string out;
  for (const char c : name)
    if (c != '-' && c != '_') out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return out;
}

}  // namespace

std::string_view named_chat_template_source(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kNamed), std::end(kNamed),
                   [&](const NamedTemplate& row) { return plain(row.name) == plain(name); });
  return found == std::end(kNamed) ? std::string_view() : found->source;
}

std::string named_chat_template_list() {
  std::string out;
  for (const auto& row : kNamed) out += fmt::format("{}{}", out.empty() ? "" : ", ", row.name);
  return out;
}

Result<ChatTemplate> named_chat_template(std::string_view name) {
  const auto source = named_chat_template_source(name);
  if (!source.empty()) return ChatTemplate::parse(std::string(source));
  return fail(ErrorCode::NotFound, fmt::format("no chat template is named '{}'; names: {}",
                                               printable(name), named_chat_template_list()));
}

std::string chat_template_family(const std::string& source) {
  for (const auto& marker : kMarkers)
    if (source.find(marker.text) != std::string::npos) return std::string(marker.family);
  return "own";
}

}  // namespace plumb
