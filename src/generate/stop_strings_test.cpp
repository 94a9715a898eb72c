// SPDX-License-Identifier: Apache-2.0
#include "generate/stop_strings.h"

#include <gtest/gtest.h>

#include <array>

namespace plumb {
namespace {

struct Shown {
  std::string text, stop;
  friend bool operator==(const Shown&, const Shown&) = default;
};

Shown show(const std::vector<std::string>& stops, const std::vector<std::string>& parts) {
  StopStrings watch(stops);
  Shown shown;
  for (const auto& part : parts) shown.text += watch.feed(part);
  shown.text += watch.flush();
  shown.stop = watch.found().value_or("");
  return shown;
}

std::vector<std::string> bytes_of(const std::string& text) {
  std::vector<std::string> bytes;
  for (const char c : text) bytes.emplace_back(1, c);
  return bytes;
}

TEST(StopStrings, NothingToWatchHoldsNothing) {
  StopStrings watch({""});
  EXPECT_EQ(watch.feed("abc"), "abc");
  EXPECT_EQ(watch.flush(), "");
  EXPECT_FALSE(watch.found());
}

TEST(StopStrings, EndTheTextBeforeThem) {
  EXPECT_EQ(show({"END"}, {"one END two"}), (Shown{"one ", "END"}));
  EXPECT_EQ(show({"END"}, {"END"}), (Shown{"", "END"}));
  EXPECT_EQ(show({"END"}, {"a", "E", "N", "D", "b"}), (Shown{"a", "END"}));
}

TEST(StopStrings, WhatOnlyBeginsLikeOneIsShownInTheEnd) {
  StopStrings watch({"END"});
  EXPECT_EQ(watch.feed("xE"), "x");
  EXPECT_EQ(watch.feed("N"), "");
  EXPECT_EQ(watch.feed("O"), "ENO");
  EXPECT_EQ(watch.feed("EN"), "");
  EXPECT_EQ(watch.flush(), "EN");
  EXPECT_FALSE(watch.found());
}

TEST(StopStrings, FindOneThatBeginsAnewInsideAFailedStart) {
  EXPECT_EQ(show({"aab"}, bytes_of("xaaab")), (Shown{"xa", "aab"}));
  EXPECT_EQ(show({"abab!"}, bytes_of("ababab!z")), (Shown{"ab", "abab!"}));
}

TEST(StopStrings, TheOneThatBeginsFirstCountsThenTheLongest) {
  EXPECT_EQ(show({"two", "one"}, {"0 one two"}), (Shown{"0 ", "one"}));
  EXPECT_EQ(show({"<|", "<|end|>"}, {"x<|end|>"}), (Shown{"x", "<|end|>"}));
  EXPECT_EQ(show({"<|end|>", "<|"}, {"x<|end|>"}), (Shown{"x", "<|end|>"}));
}

TEST(StopStrings, MatchBytesAndNotCharacters) {
  EXPECT_EQ(show({"\xC3\xA9"}, {"caf\xC3", "\xA9!"}), (Shown{"caf", "\xC3\xA9"}));
  EXPECT_EQ(show({std::string("\0x", 2)}, bytes_of(std::string("a\0\0xb", 5))),
            (Shown{std::string("a\0", 2), std::string("\0x", 2)}));
}

TEST(StopStrings, HowTheTextIsCutMakesNoDifference) {
  // All texts of 9 letters of an alphabet of 2, whole, by letters and in pieces of 2.
  const std::vector<std::string> stops = {"abba", "bbb", "abab"};
  for (int bits = 0; bits < 512; ++bits) {
    std::string text;
    for (int i = 0; i < 9; ++i) text += (bits >> i & 1) != 0 ? 'b' : 'a';
    const auto by_bytes = show(stops, bytes_of(text));
    // The first place where a stop string is complete ends the text.
    size_t end = 0;
    std::string expected = text;
    for (end = 1; end <= text.size() && expected == text; ++end)
      for (const auto& stop : stops)
        if (text.substr(0, end).ends_with(stop)) expected = text.substr(0, end - stop.size());
    EXPECT_EQ(by_bytes.text, expected) << text;
    EXPECT_EQ(show({"abba"}, {text}), show({"abba"}, bytes_of(text))) << text;
  }
}

}  // namespace
}  // namespace plumb
