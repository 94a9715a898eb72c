// SPDX-License-Identifier: Apache-2.0
// Names that scripts rely on stand in the documents: faults in docs/faults.md, reasons in
// docs/report.md.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "faults/catalogue.h"

namespace plumb {
namespace {

const std::filesystem::path kRoot = PLUMB_SOURCE_DIR;

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool names(const std::string& document, const std::string& name) {
  return document.find("`" + name + "`") != std::string::npos;
}

// What the sources of a folder have in quotes that begins with the family of a reason.
std::set<std::string> reasons_in(const std::string& folder) {
  const std::string letters = "abcdefghijklmnopqrstuvwxyz0123456789_.";
  std::set<std::string> reasons;
  for (const auto& entry : std::filesystem::directory_iterator(kRoot / folder)) {
    const auto name = entry.path().filename().string();
    if (!name.ends_with(".cpp") || name.ends_with("_test.cpp")) continue;
    const auto text = text_of(entry.path());
    for (const char* family :
         {"arithmetic", "config", "model", "phases", "steps", "tokens", "value", "weights"}) {
      const auto start = "\"" + std::string(family) + ".";
      for (size_t at = text.find(start); at != std::string::npos; at = text.find(start, at + 1)) {
        const size_t end = text.find_first_not_of(letters, at + 1);
        const auto reason = text.substr(at + 1, end - at - 1);
        // One that ends in a dot or a line is the beginning of several.
        if (!reason.ends_with('.') && !reason.ends_with('_')) reasons.insert(reason);
      }
    }
  }
  return reasons;
}

TEST(Documents, EachFaultIsDescribed) {
  const auto faults = text_of(kRoot / "docs/faults.md");
  const auto report = text_of(kRoot / "docs/report.md");
  ASSERT_FALSE(faults.empty() || report.empty());
  for (const auto& fault : fault_catalogue()) {
    EXPECT_TRUE(names(faults, fault.name)) << fault.name << " is not in docs/faults.md";
    EXPECT_TRUE(names(report, fault.name)) << fault.name << " is not in docs/report.md";
  }
}

TEST(Documents, EachReasonIsListed) {
  const auto report = text_of(kRoot / "docs/report.md");
  auto reasons = reasons_in("src/parity");
  reasons.merge(reasons_in("src/replay"));
  EXPECT_GE(reasons.size(), 25U);
  for (const char* other :
       {"attention.scale", "attention.softcap", "attention.window", "embedding.scale",
        "experts.normalize", "experts.used", "logits.scale", "logits.softcap", "norm.epsilon",
        "residual.scale", "rope.dimensions", "rope.frequencies", "rope.scaling", "rope.theta",
        "tokenizer.vocabulary", "unexplained"})
    reasons.insert(other);
  for (const auto& reason : reasons)
    EXPECT_TRUE(names(report, reason)) << reason << " is not in docs/report.md";
}

}  // namespace
}  // namespace plumb
