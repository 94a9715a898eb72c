// SPDX-License-Identifier: Apache-2.0
// Python's view of a text, which is a sequence of code points, over UTF-8 bytes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

// Strict: no surrogates, nothing beyond U+10FFFF, no overlong forms.
bool is_utf8(std::string_view bytes);

// All below take well-formed UTF-8.
// Reads the code point at `at` and moves behind it.
char32_t next_code_point(std::string_view text, size_t& at);
void append_code_point(std::string& text, char32_t code_point);
size_t code_point_count(std::string_view text);
// The offset in bytes of code point `index`, at most text.size().
size_t byte_offset(std::string_view text, size_t index);
std::vector<std::string_view> split_code_points(std::string_view text);

// As str.isspace and the \s of Python's re say it.
bool is_space(char32_t code_point);
// As str.isprintable says it: what repr() shows as it is.
bool is_printable(char32_t code_point);

enum class Side { Left, Right, Both };
// Without `characters`: white space.
std::string_view strip(std::string_view text, Side side,
                       std::optional<std::string_view> characters = {});

// str.upper and so on, with the mappings of Unicode that give several letters.
std::string to_upper(std::string_view text);
// nullopt where a capital sigma makes the mapping depend on its word.
std::optional<std::string> to_lower(std::string_view text);
std::string to_title_case(char32_t code_point);

}  // namespace plumb
