// SPDX-License-Identifier: Apache-2.0
// Engines that compute the same model in 8 bits and say nothing about it: the arithmetic is found,
// whatever the order of the operations that scale, and a fault among its steps stays a fault.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backends/referee/rounding.h"
#include "core/half.h"
#include "test_support.h"

namespace plumb::testing {
namespace {

// The numbers of an 8-bit float without a sign, each with the next: written down by what the bits
// mean, not by how the referee rounds.
std::vector<double> numbers_of(int exponent_bits, int mantissa_bits, double largest) {
  std::vector<double> numbers;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  for (int bits = 0; bits < 128; ++bits) {
    const int exponent = bits >> mantissa_bits;
    const double fraction =
        static_cast<double>(bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits);
    const double x =
        exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias);
    if (x <= largest) numbers.push_back(x);
  }
  return numbers;
}

double nearest(const std::vector<double>& numbers, double x) {
  double best = 0;
  for (const double number : numbers)
    if (std::fabs(std::fabs(x) - number) < std::fabs(std::fabs(x) - best)) best = number;
  return std::copysign(best, x);
}

enum class Scope { None, Row, Tensor };
enum class Form { Divide, Inverse, Factor };

// An engine that keeps values and weights in 8 bits.
struct Coarse {
  std::vector<double> numbers;
  Scope activations = Scope::None, weights = Scope::None;
  Form form = Form::Divide;

  void round(std::span<float> row, float max) const {
    const auto top = static_cast<float>(numbers.back());
    for (float& x : row) {
      const float scale = max / top;
      const float scaled = form == Form::Divide    ? x / scale
                           : form == Form::Inverse ? x * (1 / scale)
                                                   : x * (top / max);
      x = static_cast<float>(nearest(numbers, static_cast<double>(scaled))) * scale;
    }
  }
  void round_all(std::span<float> values, size_t width, Scope scope) const {
    if (scope == Scope::None) return;
    const auto largest = [](std::span<const float> part) {
      float max = 0;
      for (const float x : part) max = std::max(max, std::fabs(x));
      return max;
    };
    const float all = largest(values);
    for (size_t begin = 0; begin < values.size(); begin += width) {
      const auto row = values.subspan(begin, width);
      round(row, scope == Scope::Tensor ? all : largest(row));
    }
  }
  std::vector<double> operator()(std::vector<float> w, const referee::Matrix& in) const {
    std::vector<float> x(in.data, in.data + in.rows * in.width);
    round_all(x, in.width, activations);
    round_all(w, in.width, weights);
    const size_t rows = w.size() / in.width;
    std::vector<double> out(in.rows * rows);
    for (size_t r = 0; r < in.rows; ++r)
      for (size_t j = 0; j < rows; ++j)
        for (size_t i = 0; i < in.width; ++i)
          out[r * rows + j] +=
              static_cast<double>(x[r * in.width + i]) * static_cast<double>(w[j * in.width + i]);
    return out;
  }
};

std::vector<double> whole_numbers() {
  std::vector<double> numbers;
  for (int i = 0; i <= 127; ++i) numbers.push_back(i);
  return numbers;
}

const std::vector<Token> kPrompt = {3, 17, 5, 29, 11, 40, 8, 21, 33, 2, 19, 7};

Side run_coarse(const std::shared_ptr<const Model>& model, const Coarse& engine) {
  auto side = run_by_hand("candidate", model, kPrompt, "f32", {}, engine);
  side.trace.provenance.arithmetic.clear();
  return side;
}

TEST(Arithmetic, EightBitProductsAreFoundInEachForm) {
  const auto model = zoo_model("llama3-scaling");
  const auto e4m3 = numbers_of(4, 3, 448);
  const auto e5m2 = numbers_of(5, 2, 57344);
  ASSERT_EQ(e4m3.back(), 448);
  ASSERT_EQ(e5m2.back(), 57344);
  struct Case {
    std::vector<double> numbers;
    Scope activations, weights;
    std::string reason;
  };
  const std::vector<Case> cases = {
      {whole_numbers(), Scope::Row, Scope::Row, "arithmetic.int8_per_row"},
      {whole_numbers(), Scope::Tensor, Scope::Row, "arithmetic.int8_per_tensor"},
      {whole_numbers(), Scope::None, Scope::Row, "arithmetic.weights_int8_per_row"},
      {e4m3, Scope::Row, Scope::Tensor, "arithmetic.fp8e4m3_per_row"},
      {e4m3, Scope::Tensor, Scope::Tensor, "arithmetic.fp8e4m3_per_tensor"},
      {e4m3, Scope::None, Scope::Tensor, "arithmetic.weights_fp8e4m3_per_tensor"},
      {e5m2, Scope::Row, Scope::None, "arithmetic.fp8e5m2_per_row"},
  };
  for (const auto& [numbers, activations, weights, reason] : cases)
    for (const Form form : {Form::Divide, Form::Inverse, Form::Factor}) {
      const auto result = audit_side(run_coarse(model, {numbers, activations, weights, form}));
      EXPECT_EQ(result.verdict, Verdict::Explained) << reason << ": " << result.why;
      EXPECT_TRUE(wrong_steps(result).empty()) << reason;
      ASSERT_EQ(result.findings.size(), 1U) << reason;
      EXPECT_EQ(first_finding(result).reason, reason);
      EXPECT_EQ(first_finding(result).step, "layer.0.attn.q");
    }
}

// Declared, it is what the steps are judged by; and it is no excuse for another one.
TEST(Arithmetic, DeclaredEightBits) {
  const auto model = zoo_model("llama3-scaling");
  auto side = run_coarse(model, {numbers_of(4, 3, 448), Scope::Row, Scope::Tensor, Form::Inverse});
  side.trace.provenance.arithmetic = {{"*", {"fp8e4m3/tensor", "fp8e4m3/row", "f32", "f32"}},
                                      {"logits", {}}};
  const auto right = audit_side(side);
  EXPECT_EQ(right.verdict, Verdict::Explained) << right.why;
  EXPECT_NE(first_finding(right).text.find("declared"), std::string::npos);
  side.trace.provenance.arithmetic[0].second.activations = "int8/row";
  const auto wrong = audit_side(side);
  EXPECT_EQ(wrong.verdict, Verdict::Different);
  EXPECT_EQ(wrong_steps(wrong).front(), "layer.0.attn.q");
}

// Rounds all values of a step, and what is computed from them, as a table of halves does.
Side with_function(const std::shared_ptr<const Model>& model,
                   const std::function<double(double)>& silu) {
  auto side = run_by_hand("candidate", model, kPrompt, "f32");
  side.trace.provenance.arithmetic.clear();
  // The values behind the function are left out of the trace: each step is judged by itself.
  for (auto& [name, step] : side.trace.steps) {
    if (!name.ends_with("ffn.glu")) continue;
    const auto& gate = side.trace.steps.at(name.substr(0, name.size() - 3) + "gate");
    const auto& up = side.trace.steps.at(name.substr(0, name.size() - 3) + "up");
    auto values = std::make_shared<std::vector<double>>(step.positions.size() * step.width());
    std::vector<double> a(step.width());
    std::vector<double> b(step.width());
    for (size_t r = 0; r < step.positions.size(); ++r) {
      read_row(gate, r, a);
      read_row(up, r, b);
      for (size_t i = 0; i < a.size(); ++i)
        (*values)[r * a.size() + i] = static_cast<double>(static_cast<float>(silu(a[i]) * b[i]));
    }
    step.view.bytes = std::as_bytes(std::span(*values));
    step.owner = values;
  }
  for (auto it = side.trace.steps.begin(); it != side.trace.steps.end();)
    it = it->first.ends_with("ffn.act") || it->first.ends_with("ffn.out")
             ? side.trace.steps.erase(it)
             : std::next(it);
  return side;
}

TEST(Arithmetic, FunctionsOfOtherFormsAreNamed) {
  // Large arguments, where a fast exponential is worst.
  const auto model =
      with_weight(zoo_model("llama3-scaling"), "blk.0.ffn_gate.weight", [](auto& v, const Weight&) {
        for (float& x : v) x *= 20;
      });
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  const auto half = [](double x) { return referee::round_to_f16(x); };
  const auto table =
      audit_side(with_function(model, [&](double x) { return half(silu(half(x))); }));
  EXPECT_NE(find_reason(table, "arithmetic.silu_f16_table"), nullptr);
  const auto glu_is_wrong = [](const Comparison& result) {
    const auto wrong = wrong_steps(result);
    return std::ranges::find(wrong, "layer.0.ffn.glu") != wrong.end();
  };
  EXPECT_FALSE(glu_is_wrong(table));
  // An exponential that is off by as much as a fast one may be, and by four times that.
  const auto off = [&](double units) {
    return audit_side(with_function(model, [=](double x) {
      return x / (1 + std::exp(-x) * (1 + units * (2 + 1.173 * std::fabs(x)) * 0x1p-23));
    }));
  };
  const auto fast = off(0.9);
  EXPECT_FALSE(glu_is_wrong(fast));
  EXPECT_NE(find_reason(fast, "arithmetic.functions_fast"), nullptr);
  const auto other = off(40);
  EXPECT_TRUE(glu_is_wrong(other));
}

// Products whose sums are kept in half precision, in the order of the columns.
std::vector<double> half_sums(const std::vector<float>& w, const referee::Matrix& x) {
  const size_t outputs = w.size() / x.width;
  std::vector<double> out(x.rows * outputs);
  for (size_t r = 0; r < x.rows; ++r)
    for (size_t j = 0; j < outputs; ++j) {
      float sum = 0;
      for (size_t i = 0; i < x.width; ++i)
        sum = f16_to_f32(f32_to_f16(sum + w[j * x.width + i] * x.row(r)[i]));
      out[r * outputs + j] = static_cast<double>(sum);
    }
  return out;
}

TEST(Arithmetic, SumsInHalfPrecisionAreNamed) {
  const auto model = zoo_model("llama3-scaling");
  size_t product = 0;  // the seventh of a layer is ffn.out
  const auto run = [&](const std::shared_ptr<const Model>& of) {
    product = 0;
    auto side = run_by_hand("candidate", of, kPrompt, "f32", {},
                            [&](std::vector<float> w, const referee::Matrix& x) {
                              return ++product == 7 ? half_sums(w, x) : Coarse{}(w, x);
                            });
    side.trace.provenance.arithmetic.clear();
    return audit_side(side);
  };
  const auto rounded = run(model);
  EXPECT_EQ(rounded.verdict, Verdict::Different);
  EXPECT_EQ(wrong_steps(rounded), std::vector<std::string>{"layer.0.ffn.out"});
  EXPECT_EQ(first_finding(rounded).reason, "arithmetic.f16_accumulate") << rounded.why;
  EXPECT_FALSE(first_finding(rounded).parameters.contains("channels"));
  // One row of large weights: its sums pass 65504, with either sign.
  const auto large = with_weight(model, "blk.0.ffn_down.weight", [](auto& v, const Weight& w) {
    for (size_t i = 0; i < w.columns; ++i) v[9 * w.columns + i] *= 1e6F;
  });
  const auto overflow = run(large);
  EXPECT_EQ(overflow.verdict, Verdict::Different);
  EXPECT_EQ(first_finding(overflow).step, "layer.0.ffn.out") << overflow.why;
  EXPECT_EQ(first_finding(overflow).reason, "arithmetic.f16_accumulate") << overflow.why;
  EXPECT_EQ(first_finding(overflow).parameters.at("channels"), "9");
}

// A float to `bits` explicit bits, by arithmetic on its exponent. Ties go to even, those of TF32
// (10 bits) away from 0.
float shortened(float x, int bits, bool cut) {
  if (x == 0) return x;
  const double unit = std::ldexp(1.0, std::ilogb(x) - bits);
  const double units = static_cast<double>(x) / unit;
  return static_cast<float>((cut          ? std::trunc(units)
                             : bits == 10 ? std::round(units)
                                          : std::nearbyint(units)) *
                            unit);
}

struct ShortProducts {
  int weights, activations;  // explicit bits; 23: as they are
  bool cut = false;
  std::vector<double> operator()(std::vector<float> w, const referee::Matrix& in) const {
    for (float& x : w) x = shortened(x, weights, cut);
    std::vector<double> x(in.data, in.data + in.rows * in.width);
    for (double& v : x) v = static_cast<double>(shortened(static_cast<float>(v), activations, cut));
    return Coarse{}(std::move(w), {x.data(), in.rows, in.width});
  }
};

Side run_short(const std::shared_ptr<const Model>& model, const ShortProducts& engine) {
  auto side = run_by_hand("candidate", model, kPrompt, "f32", {}, engine);
  side.trace.provenance.arithmetic.clear();
  return side;
}

// Floats of fewer bits in products, results in float: TF32 of a tensor core, bfloat16 of
// torch.set_float32_matmul_precision("medium"), weights that are kept in halves.
TEST(Arithmetic, ProductsOfShortFloatsAreNamed) {
  // Values that no half holds: the ones of TF32 are told apart from those.
  const auto model =
      with_weight(zoo_model("llama3-scaling"), "blk.0.attn_q.weight", [](auto& v, const Weight&) {
        for (float& x : v) x *= 0x1p-20F;
      });
  struct Case {
    ShortProducts engine;
    std::string reason;
  };
  for (const auto& [engine, reason] : std::vector<Case>{
           {{10, 10}, "arithmetic.tf32"},
           {{10, 10, true}, "arithmetic.tf32"},
           {{7, 7}, "arithmetic.bf16"},
           {{7, 23}, "arithmetic.weights_bf16"},
       }) {
    const auto result = audit_side(run_short(model, engine));
    EXPECT_EQ(result.verdict, Verdict::Explained) << reason << ": " << result.why;
    EXPECT_TRUE(wrong_steps(result).empty()) << reason;
    EXPECT_NE(find_reason(result, reason), nullptr) << reason;
    EXPECT_EQ(find_reason(result, "arithmetic.f16_accumulate"), nullptr);
  }
  // A bit fewer is neither.
  EXPECT_EQ(audit_side(run_short(model, {6, 6})).verdict, Verdict::Different);
}

// A run of another model, judged as one of this.
Comparison audit_as(const std::shared_ptr<const Model>& model, Side side) {
  side.model = model;
  side.plan = make_plan(*model);
  return audit_side(side);
}

TEST(Arithmetic, DeclaredWeightsOfAShorterFloat) {
  const auto model = zoo_model("llama3-scaling");
  auto side = run_short(model, {7, 23});
  // The last product of such an engine stays as it is; what says otherwise is found out.
  side.trace.provenance.arithmetic = {{"*", {.weights = "bf16"}}};
  const auto lie = audit_side(side);
  EXPECT_EQ(wrong_steps(lie), std::vector<std::string>{"logits"});
  EXPECT_EQ(first_finding(lie).reason, "arithmetic.declared") << first_finding(lie).text;
  side.trace.provenance.arithmetic.push_back({"logits", {}});
  const auto right = audit_side(side);
  EXPECT_EQ(right.verdict, Verdict::Explained) << right.why;
  EXPECT_EQ(first_finding(right).reason, "arithmetic.weights_bf16");
  side.trace.provenance.arithmetic[0].second.weights = "f32";
  EXPECT_EQ(audit_side(side).verdict, Verdict::Different);
}

// The file's weights are halves; what a fault makes of one is not rounded to them.
TEST(Arithmetic, AnElementOfAModelOfHalvesThatIsNoHalf) {
  const auto model =
      in_half_precision(zoo_model("llama3-scaling"), [](const Weight&) { return true; });
  const auto other = with_weight(model, "blk.1.ffn_up.weight",
                                 [](auto& v, const Weight&) { v[70] += 0.0512345F; });
  const auto result = audit_as(model, run_short(other, {23, 23}));
  EXPECT_EQ(wrong_steps(result), std::vector<std::string>{"layer.1.ffn.up"});
  EXPECT_EQ(first_finding(result).reason, "weights.elements") << first_finding(result).text;
}

TEST(Arithmetic, AFaultAmongShortProductsIsFound) {
  const auto model = zoo_model("llama3-scaling");
  const auto other =
      with_weight(model, "blk.1.ffn_up.weight", [](auto& v, const Weight&) { v[70] += 0.05F; });
  for (const ShortProducts& engine : {ShortProducts{10, 10, true}, ShortProducts{7, 7}}) {
    const auto result = audit_as(model, run_short(other, engine));
    EXPECT_EQ(result.verdict, Verdict::Different);
    EXPECT_EQ(wrong_steps(result), std::vector<std::string>{"layer.1.ffn.up"});
    EXPECT_EQ(first_finding(result).reason, "weights.elements") << first_finding(result).text;
  }
}

TEST(Arithmetic, AFaultAmongEightBitStepsIsFound) {
  const auto model = zoo_model("llama3-scaling");
  const Coarse engine{numbers_of(4, 3, 448), Scope::Row, Scope::Tensor, Form::Inverse};
  // The engine has one weight transposed.
  const auto other = with_weight(model, "blk.1.attn_q.weight", [](auto& v, const Weight& w) {
    ASSERT_EQ(w.rows, w.columns);
    auto turned = v;
    for (size_t r = 0; r < w.rows; ++r)
      for (size_t c = 0; c < w.columns; ++c) turned[c * w.rows + r] = v[r * w.columns + c];
    v = turned;
  });
  const auto result = audit_as(model, run_coarse(other, engine));
  EXPECT_EQ(result.verdict, Verdict::Different);
  EXPECT_EQ(wrong_steps(result), std::vector<std::string>{"layer.1.attn.q"});
  EXPECT_EQ(first_finding(result).reason, "weights.transposed");
}

}  // namespace
}  // namespace plumb::testing
