// SPDX-License-Identifier: Apache-2.0
// The two seams of the program: a Backend runs a plan, an Observer sees each value of a run.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/result.h"
#include "core/threads.h"
#include "model/plan.h"
#include "trace/arithmetic.h"

namespace plumb {

// Sees values as they are computed. It is asked once for each step; a run with an observer computes
// the same bits as a run without. Values as the backend computed them: float, or the referee's
// double.
using Values = std::variant<std::span<const float>, std::span<const double>>;

class Observer {
 public:
  virtual ~Observer() = default;
  virtual bool wants(const Step& step) const = 0;
  // `values` are `rows` rows for the positions from `first` on. Rows of Scores and Softmax have
  // heads * capacity values; keys that a query cannot see are 0. Valid during the call only.
  virtual void on_value(const Step& step, size_t first, size_t rows, Values values) = 0;
};

enum class Outputs { LastPosition, AllPositions };

// One sequence with its cache of keys and values.
class Session {
 public:
  virtual ~Session() = default;
  // Feeds tokens behind those fed before, as one batch. Gives the logits, (rows, vocabulary), of
  // the last position or of all. Fails if a token is outside the vocabulary or the capacity is
  // exceeded.
  virtual Result<std::vector<float>> forward(std::span<const Token> tokens, Outputs outputs,
                                             Observer* observer) = 0;
  virtual size_t position() const = 0;
};

enum class KvType { F32, F16, Q8_0 };  // what the cache of keys and values holds
const char* to_text(KvType type);      // "f32", "f16", "q8_0"

struct SessionOptions {
  size_t capacity = 0;  // positions that will be fed at most
  KvType kv_cache = KvType::F32;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  virtual std::string level() const = 0;
  // How this backend computes a step: what goes into a trace, and what replay is judged by.
  virtual Arithmetic arithmetic(const Step& step) const = 0;
  // Names at once a step that it cannot do. Model and plan outlive the session.
  virtual Result<std::unique_ptr<Session>> open(const Model& model, const Plan& plan,
                                                const SessionOptions& options,
                                                Threads& threads) const = 0;
  // Bytes that a session takes beside the model file: cache, activations, logits of one batch.
  virtual uint64_t session_bytes(const Model& model, const Plan& plan,
                                 const SessionOptions& options) const = 0;
};

// Checks that every backend makes before it opens a session: the capacity fits the model's table of
// positions, and the model the type of the cache.
Result<void> check_options(const Model& model, const Plan& plan, const SessionOptions& options);
// Checks that every session makes before it computes.
Result<void> check_tokens(std::span<const Token> tokens, const Model& model, size_t position,
                          size_t capacity);

}  // namespace plumb
