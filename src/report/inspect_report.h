// SPDX-License-Identifier: Apache-2.0
// What `plumb inspect` prints. Pure: facts in, text out.
#pragma once
#include <string>
#include <vector>

#include "inspect/statistics.h"
#include "inspect/summary.h"
#include "inspect/verify.h"
#include "parity/compare_files.h"
#include "trace/trace.h"

namespace plumb {

struct InspectStyle {
  bool colour = false;
};

// A row of the table of tensors; statistics are optional.
struct TensorRowFacts {
  const TensorEntry* tensor = nullptr;
  const TensorStatistics* statistics = nullptr;
};

std::string summary_text(const ModelFile& file, const Summary& summary, InspectStyle style);
std::string tensors_text(const std::vector<TensorRowFacts>& rows, InspectStyle style);
std::string tensor_text(const TensorEntry& tensor, const TensorStatistics& statistics,
                        const Histogram& histogram, InspectStyle style);
std::string metadata_text(const ModelFile& file, InspectStyle style);
std::string metadata_value_text(const MetadataValue& value);  // whole
std::string verification_text(const ModelFile& file, const Verification& verification,
                              bool all_hashes, InspectStyle style);
std::string comparison_text(const ModelFile& a, const ModelFile& b,
                            const FileComparison& comparison, bool all, InspectStyle style);
std::string issues_text(const std::vector<Issue>& issues, InspectStyle style);
std::string trace_text(const Trace& trace, bool all_steps, InspectStyle style);

// JSON of the same; keys are added, never renamed.
struct InspectJson {
  bool tensors = false, metadata = false;  // long arrays of metadata are left out
  const std::vector<Issue>* issues = nullptr;
  const Verification* verification = nullptr;
};
std::string inspect_json(const ModelFile& file, const Summary& summary, const InspectJson& parts);
std::string tensor_json(const TensorEntry& tensor, const TensorStatistics& statistics,
                        const Histogram& histogram);
std::string comparison_json(const ModelFile& a, const ModelFile& b,
                            const FileComparison& comparison);
std::string trace_json(const Trace& trace);

// "SOUND", "SUSPECT", "UNSOUND"
std::string verdict_of(const Verification& verification);

// "1.5 MB", "253 MB": decimal units, three figures.
std::string bytes_text(uint64_t bytes);
std::string count_text(uint64_t count);  // "134.5 M"

}  // namespace plumb
