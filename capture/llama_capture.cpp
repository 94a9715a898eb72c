// SPDX-License-Identifier: Apache-2.0
// Runs a model in llama.cpp and writes the values of its steps as a plumb trace.
//
// One file, C++17. Compile it against your own llama.cpp, any backend:
//   g++ -std=c++17 -O2 llama_capture.cpp -o llama_capture -I$LLAMA/include -I$LLAMA/ggml/include
//       -L$LLAMA/build/bin -Wl,-rpath,$LLAMA/build/bin -lllama -lggml -lggml-base
// How to use it: docs/capture/llama.cpp.md. What it writes: docs/trace-format.md.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

#if defined(__GNUC__) && !defined(_WIN32)
// Older versions of llama.cpp do not have it; then it is null.
extern "C" const char* llama_version(void) __attribute__((weak));
#define LLAMA_CAPTURE_VERSION() (llama_version != nullptr ? llama_version() : "unknown")
#else
#define LLAMA_CAPTURE_VERSION() llama_version()
#endif

namespace {

constexpr int kExitDone = 0;
constexpr int kExitDiffers = 1;
constexpr int kExitFailed = 3;
constexpr int64_t kMaxTokens = 1 << 20;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void fail(const std::string& what) { throw Failure(what); }

// ---------------------------------------------------------------------------------------------
// Options

struct Options {
  std::string model;
  std::string prompt;
  std::string output;
  std::string kv = "f16";
  std::string flash_attn = "auto";
  std::vector<llama_token> tokens;
  std::vector<llama_token> decode_tokens;
  std::vector<std::string> steps;
  int decode = 8;
  int threads = 0;
  int gpu_layers = 0;
  bool has_prompt = false;
  bool check = false;
  bool list = false;
  bool verbose = false;
  bool statistics = false;
};

const char kUsage[] =
    "Runs a model in llama.cpp and writes the values of its steps as a plumb trace.\n"
    "llama_capture -m MODEL (-p TEXT | --tokens 1,2,3) -o OUT.safetensors [OPTIONS]\n"
    "\n"
    "  -m FILE               the GGUF file\n"
    "  -p TEXT               prompt, tokenized by llama.cpp, BOS added if the model asks for it\n"
    "  --prompt-file FILE    the same from a file\n"
    "  --tokens IDS          token ids as given, nothing added\n"
    "  -n N                  tokens to decode greedily after the prompt (8)\n"
    "  --tokens-decode IDS   feed these after the prompt, one by one, in place of -n\n"
    "  -o FILE               trace to write\n"
    "  --steps PATTERN ...   record these only, such as 'layer.0.*'; * is any text.\n"
    "                        Not given: all but attn.weights\n"
    "  --depth values|stats  stats: eight figures and a sketch of each row in place of its "
    "values;\n"
    "                        plumb screens with them, and says what to record next (values)\n"
    "  --kv TYPE             what the KV cache holds: f32, f16, bf16, q8_0 or q4_0 (f16)\n"
    "  --flash-attn MODE     on, off or auto (auto)\n"
    "  --threads N           (all processors)\n"
    "  --gpu-layers N        (0)\n"
    "  --check               run the same without the observer first; are the logits the same "
    "bits?\n"
    "  --list                show which node of the graph is which step, and run nothing\n"
    "  --verbose             do not silence llama.cpp's own messages\n"
    "\n"
    "Exit: 0 done, 1 --check found a difference, 3 could not run.\n";

long parse_number(const std::string& text, const std::string& what, long low, long high) {
  char* end = nullptr;
  errno = 0;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0 || value < low || value > high) {
    fail(what + ": '" + text + "' is no whole number from " + std::to_string(low) + " to " +
         std::to_string(high));
  }
  return value;
}

std::vector<llama_token> parse_ids(const std::string& text, const std::string& what) {
  std::vector<llama_token> ids;
  size_t at = 0;
  while (at <= text.size()) {
    const size_t comma = std::min(text.find(',', at), text.size());
    ids.push_back(
        static_cast<llama_token>(parse_number(text.substr(at, comma - at), what, 0, INT32_MAX)));
    at = comma + 1;
  }
  return ids;
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(path + ": cannot be opened");
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

// The options that take one value, each with what to do with it.
void take_value(Options& o, const std::string& name, const std::string& value) {
  if (name == "-m" || name == "--model") {
    o.model = value;
  } else if (name == "-p" || name == "--prompt") {
    o.prompt = value;
    o.has_prompt = true;
  } else if (name == "--prompt-file") {
    o.prompt = read_file(value);
    o.has_prompt = true;
  } else if (name == "--tokens") {
    o.tokens = parse_ids(value, name);
  } else if (name == "--tokens-decode") {
    o.decode_tokens = parse_ids(value, name);
  } else if (name == "-n" || name == "--decode") {
    o.decode = static_cast<int>(parse_number(value, name, 0, kMaxTokens));
  } else if (name == "-o" || name == "--output") {
    o.output = value;
  } else if (name == "--kv") {
    o.kv = value;
  } else if (name == "--flash-attn") {
    o.flash_attn = value;
  } else if (name == "--depth") {
    if (value != "values" && value != "stats")
      fail("--depth: '" + value + "', expected values or stats");
    o.statistics = value == "stats";
  } else if (name == "--threads") {
    o.threads = static_cast<int>(parse_number(value, name, 0, 1024));
  } else if (name == "--gpu-layers") {
    o.gpu_layers = static_cast<int>(parse_number(value, name, 0, 100000));
  } else {
    fail("unknown option " + name + "; llama_capture --help lists them");
  }
}

Options parse_options(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    const std::string name = argv[i];
    if (name == "--help" || name == "-h") {
      std::fputs(kUsage, stdout);
      std::exit(kExitDone);
    }
    if (name == "--check") {
      o.check = true;
    } else if (name == "--list") {
      o.list = true;
    } else if (name == "--verbose") {
      o.verbose = true;
    } else if (name == "--steps") {
      const size_t before = o.steps.size();
      while (i + 1 < argc && argv[i + 1][0] != '-') o.steps.emplace_back(argv[++i]);
      if (o.steps.size() == before) fail("--steps: no pattern given");
    } else {
      if (i + 1 >= argc) fail(name + ": unknown, or its value is missing");
      take_value(o, name, argv[++i]);
    }
  }
  if (o.model.empty()) fail("no model: give it with -m FILE");
  if (o.output.empty() && !o.list) fail("no output: give it with -o FILE");
  if (o.has_prompt == !o.tokens.empty()) fail("give either -p TEXT or --tokens 1,2,3");
  if (o.threads == 0) o.threads = std::max(1u, std::thread::hardware_concurrency());
  return o;
}

// ---------------------------------------------------------------------------------------------
// SHA-256 of the model file (FIPS 180-4)

class Sha256 {
 public:
  void add(const unsigned char* data, size_t size) {
    total_ += size;
    while (size > 0) {
      const size_t part = std::min(size, sizeof(block_) - filled_);
      std::memcpy(block_ + filled_, data, part);
      filled_ += part;
      data += part;
      size -= part;
      if (filled_ == sizeof(block_)) {
        digest_block();
        filled_ = 0;
      }
    }
  }

  std::string hex() {
    const uint64_t bits = total_ * 8;
    const unsigned char one = 0x80;
    const unsigned char zero = 0;
    add(&one, 1);
    while (filled_ != 56) add(&zero, 1);
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = static_cast<unsigned char>(bits >> (56 - 8 * i));
    add(length, 8);
    std::string text;
    char part[9];
    for (const uint32_t word : state_) {
      std::snprintf(part, sizeof part, "%08x", word);
      text += part;
    }
    return text;
  }

 private:
  static uint32_t turn(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

  // The first 32 bits of the fractional part of the cube root of the first 64 primes.
  static const uint32_t* constants() {
    static const std::vector<uint32_t> k = [] {
      std::vector<uint32_t> values;
      for (uint32_t n = 2; values.size() < 64; n++) {
        bool prime = true;
        for (uint32_t d = 2; d * d <= n; d++) prime = prime && n % d != 0;
        if (!prime) continue;
        // floor(cbrt(n) * 2^32) without its whole part, in whole numbers: bisection on the cube.
        unsigned __int128 low = 0;
        unsigned __int128 high = static_cast<unsigned __int128>(8) << 32;
        const unsigned __int128 cube = static_cast<unsigned __int128>(n) << 96;
        while (high - low > 1) {
          const unsigned __int128 middle = (low + high) / 2;
          (middle * middle * middle <= cube ? low : high) = middle;
        }
        values.push_back(static_cast<uint32_t>(low));
      }
      return values;
    }();
    return k.data();
  }

  void digest_block() {
    const uint32_t* k = constants();
    uint32_t w[64];
    for (int i = 0; i < 16; i++) {
      w[i] = static_cast<uint32_t>(block_[4 * i]) << 24 |
             static_cast<uint32_t>(block_[4 * i + 1]) << 16 |
             static_cast<uint32_t>(block_[4 * i + 2]) << 8 | block_[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
      const uint32_t s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const uint32_t s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t v[8];
    std::memcpy(v, state_, sizeof v);
    for (int i = 0; i < 64; i++) {
      const uint32_t s1 = turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25);
      const uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
      const uint32_t s0 = turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22);
      const uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      for (int j = 7; j > 0; j--) v[j] = v[j - 1];
      v[4] += t1;
      v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) state_[i] += v[i];
  }

  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  unsigned char block_[64];
  size_t filled_ = 0;
  uint64_t total_ = 0;
};

std::string sha256_of_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(path + ": cannot be opened");
  Sha256 sum;
  std::vector<char> buffer(1 << 20);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    sum.add(reinterpret_cast<unsigned char*>(buffer.data()), static_cast<size_t>(in.gcount()));
  }
  if (in.bad()) fail(path + ": cannot be read to its end");
  return sum.hex();
}

// ---------------------------------------------------------------------------------------------
// The graph, as the scheduler shows it to the callback

struct Node {
  std::string name;
  ggml_op op = GGML_OP_NONE;
  int occurrence = 0;  // among the nodes with this name and operation
  int layer = -1;      // of the latest name that ended in a layer's number
  int64_t width = 0;   // values for one token, if the graph was built for one token
  size_t view_offset = 0;
  ggml_type type = GGML_TYPE_F32;
  std::vector<int> sources;  // nodes, without reshapes in between; -1: not computed in this graph
  std::vector<std::string> source_names;
  int view_of = -1;  // the node whose memory it shows
  int root = -1;     // itself; of a reshape, the node that computed the values
  bool empty = false;
};

using NodeKey = std::pair<std::string, int>;  // name, operation

bool is_view(ggml_op op) {
  return op == GGML_OP_RESHAPE || op == GGML_OP_VIEW || op == GGML_OP_PERMUTE ||
         op == GGML_OP_TRANSPOSE;
}

// "Qcur-3" is "Qcur" in layer 3; a name without a number has the layer -1.
std::pair<std::string, int> split_name(const std::string& name) {
  const size_t dash = name.rfind('-');
  if (dash == std::string::npos || dash + 1 == name.size()) return {name, -1};
  int layer = 0;
  for (size_t i = dash + 1; i < name.size(); i++) {
    if (name[i] < '0' || name[i] > '9' || layer > 100000) return {name, -1};
    layer = layer * 10 + (name[i] - '0');
  }
  return {name.substr(0, dash), layer};
}

class Graph {
 public:
  void add(const ggml_tensor* t) {
    Node node;
    node.name = t->name;
    node.op = t->op;
    node.occurrence = counts_[{node.name, node.op}]++;
    const int layer = split_name(node.name).second;
    if (layer >= 0) layer_ = layer;
    node.layer = layer_;
    node.width = ggml_nelements(t);
    node.type = t->type;
    node.empty = is_view(t->op);
    node.view_offset = t->view_offs;
    if (t->view_src != nullptr) node.view_of = index_of(t->view_src);
    const int own = static_cast<int>(nodes.size());
    const int through = through_views(t);
    node.root = through >= 0 ? through : own;
    for (int i = 0; i < GGML_MAX_SRC && t->src[i] != nullptr; i++) {
      node.sources.push_back(through_views(t->src[i]));
      node.source_names.emplace_back(t->src[i]->name);
    }
    note_keys(t);
    index_[t] = own;
    nodes.push_back(node);
  }

  std::string key_type = "unknown";  // what the attention reads its keys from
  bool flash_attention = false;

  // The nodes that read `index`, looked at through reshapes.
  std::vector<int> readers(int index) const {
    std::vector<int> found;
    for (size_t i = 0; i < nodes.size(); i++) {
      if (nodes[i].empty) continue;
      const std::vector<int>& from = nodes[i].sources;
      if (std::find(from.begin(), from.end(), index) != from.end()) {
        found.push_back(static_cast<int>(i));
      }
    }
    return found;
  }

  std::vector<Node> nodes;

 private:
  // Flash attention reads half precision even where the cache is asked to hold floats.
  void note_keys(const ggml_tensor* t) {
    if (t->op == GGML_OP_FLASH_ATTN_EXT) {
      flash_attention = true;
      key_type = ggml_type_name(t->src[1]->type);
    } else if (t->op == GGML_OP_MUL_MAT && split_name(t->name).first == "kq") {
      key_type = ggml_type_name(t->src[0]->type);
    }
  }

  int index_of(const ggml_tensor* t) const {
    const auto found = index_.find(t);
    return found == index_.end() ? -1 : found->second;
  }

  int through_views(const ggml_tensor* t) const {
    while (is_view(t->op) && t->src[0] != nullptr &&
           ggml_nelements(t->src[0]) == ggml_nelements(t)) {
      t = t->src[0];
    }
    return index_of(t);
  }

  std::map<NodeKey, int> counts_;
  std::unordered_map<const ggml_tensor*, int> index_;
  int layer_ = -1;
};

// ---------------------------------------------------------------------------------------------
// Which node is which step

enum class Form { kRows, kExperts, kAttentionWeights };

struct Target {
  std::string step;
  int node = 0;
  int64_t first = 0;  // first value of the node's row
  int64_t width = 0;
  Form form = Form::kRows;
};

// Names that stand for one step alone, whatever the architecture.
const std::map<std::string, std::string>& plain_names() {
  static const std::map<std::string, std::string> names = {
      {"attn_norm", "attn.norm"},
      {"attn_post_norm", "attn.post_norm"},
      {"post_attn_norm", "attn.post_norm"},
      {"ffn_norm", "ffn.norm"},
      {"ffn_post_norm", "ffn.post_norm"},
      {"post_mlp_norm", "ffn.post_norm"},
      {"ffn_swiglu", "ffn.glu"},
      {"ffn_geglu", "ffn.glu"},
      {"ffn_reglu", "ffn.glu"},
      {"ffn_gate_par", "ffn.glu"},
      {"ffn_silu", "ffn.act"},
      {"ffn_gelu", "ffn.act"},
      {"ffn_relu", "ffn.act"},
      {"ffn_moe_logits", "ffn.router"},
      {"ffn_moe_gate", "ffn.gate"},
      {"ffn_moe_up", "ffn.up"},
      {"ffn_moe_swiglu", "ffn.glu"},
      {"ffn_moe_geglu", "ffn.glu"},
      {"ffn_moe_down", "ffn.down"},
      {"l_out", "residual"},
  };
  return names;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

class Mapper {
 public:
  explicit Mapper(const Graph& graph) : graph_(graph) {
    for (size_t i = 0; i < graph_.nodes.size(); i++) {
      const Node& node = graph_.nodes[i];
      const auto [base, layer] = split_name(node.name);
      by_name_[{base, node.layer}].push_back(static_cast<int>(i));
      if (layer >= 0) layers_ = std::max(layers_, layer + 1);
    }
  }

  std::vector<Target> map() {
    map_embedding();
    for (int layer = 0; layer < layers_; layer++) map_layer(layer);
    map_head();
    return std::move(targets_);
  }

  bool rotated_cache = false;

 private:
  const Node& node(int index) const { return graph_.nodes[static_cast<size_t>(index)]; }

  // Nodes with this name in this layer, in the order of the graph.
  std::vector<int> named(const std::string& base, int layer) const {
    const auto found = by_name_.find({base, layer});
    return found == by_name_.end() ? std::vector<int>() : found->second;
  }

  int first_named(const std::string& base, int layer, std::initializer_list<ggml_op> ops) const {
    for (const int index : named(base, layer)) {
      if (std::find(ops.begin(), ops.end(), node(index).op) != ops.end()) return index;
    }
    return -1;
  }

  int any_named(const std::string& base) const {
    for (size_t i = 0; i < graph_.nodes.size(); i++) {
      if (split_name(graph_.nodes[i].name).first == base) return static_cast<int>(i);
    }
    return -1;
  }

  void add(const std::string& step, int index) {
    if (index < 0) return;
    add_part(step, index, 0, node(index).width);
  }

  void add_part(const std::string& step, int index, int64_t first, int64_t width) {
    if (index < 0 || !seen_.insert(step).second) return;
    targets_.push_back({step, index, first, width, Form::kRows});
  }

  void add_form(const std::string& step, int index, Form form) {
    if (index < 0 || !seen_.insert(step).second) return;
    targets_.push_back({step, index, 0, node(index).width, form});
  }

  void map_embedding() {
    int lookup = -1;
    for (size_t i = 0; i < graph_.nodes.size() && lookup < 0; i++) {
      const Node& n = graph_.nodes[i];
      if (n.op == GGML_OP_GET_ROWS && !n.source_names.empty() &&
          n.source_names[0] == "token_embd.weight") {
        lookup = static_cast<int>(i);
      }
    }
    int entry = -1;  // what enters layer 0
    for (const char* name : {"inp_norm", "inpL", "inp_scaled", "embd", "inp_embd"}) {
      if (entry < 0) entry = any_named(name);
    }
    if (entry < 0) entry = lookup;
    if (lookup >= 0 && entry != lookup) add("embedding_lookup", lookup);
    add("embedding", entry);
  }

  static std::string step_of(int layer, const std::string& step) {
    return "layer." + std::to_string(layer) + "." + step;
  }

  void map_layer(int layer) {
    for (const auto& [name, what] : {std::pair{"Q", "q"}, {"K", "k"}, {"V", "v"}}) {
      map_projection(layer, name, what);
    }
    map_attention(layer);
    map_feed_forward(layer);
    map_experts(layer);
    for (const auto& [name, step] : plain_names()) {
      const std::vector<int> found = named(name, layer);
      if (!found.empty()) add(step_of(layer, step), found.front());
    }
  }

  // All values of Qcur (Kcur, Vcur) that a layer has: product, sum with the bias, norm, rotation.
  void map_projection(int layer, const std::string& letter, const std::string& what) {
    const std::string base = letter + "cur";
    const std::string step = step_of(layer, "attn." + what);
    const int product = first_named(base, layer, {GGML_OP_MUL_MAT});
    const int sum = first_named(base, layer, {GGML_OP_ADD});
    const int view = first_named(base, layer, {GGML_OP_VIEW});
    if (product >= 0) {
      add(sum >= 0 ? step + "_matmul" : step, product);
      add(step, sum);
    } else if (view >= 0) {
      map_part(layer, step, view);
    }
    const int rotated = first_named(base, layer, {GGML_OP_ROPE});
    int norm = first_named(base + "_normed", layer, {GGML_OP_MUL, GGML_OP_ADD});
    if (norm < 0) norm = first_named(base, layer, {GGML_OP_MUL, GGML_OP_NORM});
    if (rotated < 0 || norm < rotated) add(step + "_norm", norm);
    add(step + "_rope", rotated);
  }

  // A projection that is a part of the rows of a fused product.
  void map_part(int layer, const std::string& step, int view) {
    const int source = node(view).view_of;
    if (source < 0) return;
    const int64_t first = static_cast<int64_t>(node(view).view_offset / sizeof(float));
    const int64_t width = node(view).width;
    const int product = first_named("wqkv", layer, {GGML_OP_MUL_MAT});
    if (node(source).op == GGML_OP_ADD && product >= 0) {
      add_part(step + "_matmul", product, first, width);
    }
    add_part(step, source, first, width);
  }

  void map_attention(int layer) {
    const std::vector<int> mixes = named("kqv_out", layer);
    if (mixes.empty()) return;
    int mix = mixes.front();
    int product = product_of(node(mix).root);
    // A quantized cache holds rotated vectors; the rotation is undone before the weights come.
    const int after = product >= 0 ? product_of(product) : -1;
    if (after >= 0 && !ends_with(node(product).source_names[0], ".weight")) {
      mix = product;
      product = after;
      rotated_cache = true;
    }
    add(step_of(layer, "attn.mix"), mix);
    const int weights = first_named("kq_soft_max", layer, {GGML_OP_SOFT_MAX});
    add_form(step_of(layer, "attn.weights"), weights, Form::kAttentionWeights);

    const int out = with_bias(product);
    add(step_of(layer, "attn.out"), out);
    add(step_of(layer, "attn.out_scaled"), reader_with(out, GGML_OP_SCALE));

    int residual = first_named("ffn_inp", layer, {GGML_OP_ADD});
    if (residual < 0) residual = first_named("sa_out", layer, {GGML_OP_ADD});
    if (residual < 0) residual = unnamed_residual(layer);
    add(step_of(layer, "attn.residual"), residual);
  }

  // The matrix product that reads this node (through reshapes).
  int product_of(int index) const {
    for (const int reader : graph_.readers(index)) {
      const Node& n = node(reader);
      if (n.op == GGML_OP_MUL_MAT && n.sources.size() > 1 && n.sources[1] == index) return reader;
    }
    return -1;
  }

  // A sum with something that no node computed is the sum with a bias.
  int with_bias(int product) const {
    if (product < 0) return -1;
    for (const int reader : graph_.readers(product)) {
      const Node& n = node(reader);
      if (n.op == GGML_OP_ADD && n.sources[0] == product && n.sources[1] < 0) return reader;
    }
    return product;
  }

  // In the last layer rows are picked first, and all of them are picked.
  int reader_with(int index, ggml_op op) const {
    if (index < 0) return -1;
    for (const int reader : graph_.readers(index)) {
      if (node(reader).op == op) return reader;
      if (node(reader).op != GGML_OP_GET_ROWS) continue;
      for (const int next : graph_.readers(reader)) {
        if (node(next).op == op) return next;
      }
    }
    return -1;
  }

  // Where the sum after the attention has no name, it is what both the norm of the feed-forward
  // part and the layer's last sum read.
  int unnamed_residual(int layer) const {
    const std::vector<int> norms = named("ffn_norm", layer);
    const std::vector<int> ends = named("l_out", layer);
    if (norms.empty() || ends.empty()) return -1;
    for (const int source : node(ends.front()).sources) {
      if (source < 0 || node(source).op != GGML_OP_ADD || source > norms.front()) continue;
      for (const int reader : graph_.readers(source)) {
        const ggml_op op = node(reader).op;
        if (op == GGML_OP_RMS_NORM || op == GGML_OP_NORM) return source;
      }
    }
    return -1;
  }

  void map_feed_forward(int layer) {
    int up = first_named("ffn_up", layer, {GGML_OP_MUL_MAT});
    int gate = first_named("ffn_gate", layer, {GGML_OP_MUL_MAT});
    const int up_sum = first_named("ffn_up_b", layer, {GGML_OP_ADD});
    const int gate_sum = first_named("ffn_gate_b", layer, {GGML_OP_ADD});
    if (up_sum >= 0) up = up_sum;
    if (gate_sum >= 0) gate = gate_sum;
    int gated = -1;
    for (const char* name : {"ffn_swiglu", "ffn_geglu", "ffn_reglu"}) {
      if (gated < 0) gated = first_named(name, layer, {GGML_OP_GLU});
    }
    const bool fused = gated >= 0 && gate < 0 && up >= 0 && node(gated).sources.size() == 1;
    if (fused) {
      const int64_t half = node(up).width / 2;
      add_part(step_of(layer, "ffn.gate"), up, 0, half);
      add_part(step_of(layer, "ffn.up"), up, half, half);
    } else {
      add(step_of(layer, "ffn.gate"), gate);
      add(step_of(layer, "ffn.up"), up);
    }
    int out = first_named("ffn_out", layer, {GGML_OP_MUL_MAT, GGML_OP_ADD});
    if (out < 0) out = unnamed_product_of_glu(layer);
    if (!named("ffn_moe_logits", layer).empty() && out >= 0 && node(out).op == GGML_OP_MUL_MAT) {
      out = -1;
    }
    add(step_of(layer, "ffn.out"), out);
    add(step_of(layer, "ffn.out_scaled"), reader_with(out, GGML_OP_SCALE));
  }

  // Some graphs give the product of the down projection another name, or none.
  int unnamed_product_of_glu(int layer) const {
    for (const char* name : {"ffn_swiglu", "ffn_geglu", "ffn_reglu", "ffn_gelu", "ffn_silu"}) {
      for (const int index : named(name, layer)) {
        for (const int reader : graph_.readers(index)) {
          if (node(reader).op == GGML_OP_MUL_MAT) return with_bias(reader);
        }
      }
    }
    return -1;
  }

  void map_experts(int layer) {
    const std::vector<int> experts = named("ffn_moe_topk", layer);
    if (experts.empty()) return;
    add_form(step_of(layer, "ffn.experts"), experts.front(), Form::kExperts);
    const int biased = first_named("ffn_moe_logits_biased", layer, {GGML_OP_ADD});
    add(step_of(layer, "ffn.router"), biased);
    for (const char* name : {"ffn_moe_weights_scaled", "ffn_moe_weights_norm",
                             "ffn_moe_weights_softmax", "ffn_moe_weights"}) {
      const std::vector<int> found = named(name, layer);
      if (!found.empty()) add(step_of(layer, "ffn.expert_weights"), found.front());
    }
    const std::vector<int> routed = named("ffn_moe_out", layer);
    const std::vector<int> shared = named("ffn_shexp", layer);
    const bool has_shared = !shared.empty() || seen_.count(step_of(layer, "ffn.out")) > 0;
    if (!routed.empty()) {
      add(step_of(layer, has_shared ? "ffn.routed" : "ffn.out"), routed.front());
    }
    if (!shared.empty()) add(step_of(layer, "ffn.shared_out"), shared.front());
  }

  void map_head() {
    add("final.norm", any_named("result_norm"));
    const int logits = any_named("result_output");
    if (logits < 0) return;
    add("logits", logits);
    // A soft cap is scale, tanh, scale; a scale is one. Neither touches the product itself.
    int source = logits;
    while (source >= 0 && (node(source).op == GGML_OP_SCALE || node(source).op == GGML_OP_UNARY)) {
      source = node(source).sources[0];
    }
    if (source >= 0 && source != logits && node(source).op == GGML_OP_MUL_MAT) {
      add("logits_matmul", source);
    }
  }

  const Graph& graph_;
  std::map<std::pair<std::string, int>, std::vector<int>> by_name_;
  std::vector<Target> targets_;
  std::set<std::string> seen_;
  int layers_ = 0;
};

// ---------------------------------------------------------------------------------------------
// The trace file

struct StepFile {
  Target target;
  int64_t heads = 0;        // of attention weights
  int64_t row_values = 0;   // of four bytes
  bool statistics = false;  // all [tokens, 8] figures in double, then all [tokens, 64] sketches
  uint64_t offset = 0;
  int64_t rows_written = 0;
};

std::string json_text(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const unsigned char u = static_cast<unsigned char>(c);
    char code[8];
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (u < 0x20) {
      std::snprintf(code, sizeof code, "\\u%04x", u);
      out += code;
    } else {
      out += c;
    }
  }
  return out + '"';
}

class TraceFile {
 public:
  TraceFile(std::string path, size_t header_bytes)
      : path_(std::move(path)), partial_(path_ + ".partial"), header_bytes_(header_bytes) {
    out_.open(partial_, std::ios::binary | std::ios::trunc);
    if (!out_) fail(partial_ + ": cannot be written");
  }

  ~TraceFile() {
    if (done_) return;
    out_.close();
    std::remove(partial_.c_str());
  }

  void write(uint64_t offset, const void* data, size_t bytes) {
    out_.seekp(static_cast<std::streamoff>(8 + header_bytes_ + offset));
    out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
    if (!out_) fail(partial_ + ": writing failed; is the disk full?");
  }

  // The header was given room before the run; spaces fill what is left.
  void finish(std::string header) {
    if (header.size() > header_bytes_) fail("the header is larger than its room");
    header.resize(header_bytes_, ' ');
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = static_cast<unsigned char>(header_bytes_ >> (8 * i));
    out_.seekp(0);
    out_.write(reinterpret_cast<const char*>(length), 8);
    out_.write(header.data(), static_cast<std::streamsize>(header.size()));
    out_.close();
    if (!out_) fail(partial_ + ": writing failed; is the disk full?");
    std::remove(path_.c_str());
    if (std::rename(partial_.c_str(), path_.c_str()) != 0) fail(path_ + ": cannot be renamed");
    done_ = true;
  }

 private:
  std::string path_;
  std::string partial_;
  uint64_t header_bytes_;
  std::ofstream out_;
  bool done_ = false;
};

// ---------------------------------------------------------------------------------------------
// Statistics and a sketch in place of a row (docs/steps.md)

constexpr int64_t kFigures = 8;
constexpr int64_t kSketch = 64;

uint64_t splitmix64(uint64_t index) {
  uint64_t z = 0x706C756D62 + (index + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// Count, not finite, mean, standard deviation of the population, minimum, maximum, L2 norm, index
// of the first largest magnitude: of the finite values, all but the first two.
void summarize(const float* row, int64_t width, double* figures, float* sketch) {
  double sum = 0;
  double squares = 0;
  double low = INFINITY;
  double high = -INFINITY;
  int64_t finite = 0;
  int64_t largest = -1;
  double sums[kSketch] = {};
  uint64_t signs = 0;
  uint64_t turn = 0;
  for (int64_t i = 0; i < width; i++) {
    if (i % kSketch == 0) {
      const uint64_t block = static_cast<uint64_t>(i / kSketch);
      signs = splitmix64(2 * block);
      turn = splitmix64(2 * block + 1) >> 58;
    }
    const double x = static_cast<double>(row[i]);
    if (!std::isfinite(x)) continue;
    finite++;
    sum += x;
    squares += x * x;
    low = std::min(low, x);
    high = std::max(high, x);
    if (largest < 0 || std::fabs(x) > std::fabs(static_cast<double>(row[largest]))) largest = i;
    const bool minus = (signs >> (i % kSketch) & 1) == 1;
    sums[(static_cast<uint64_t>(i) + turn) % kSketch] += minus ? -x : x;
  }
  const double n = static_cast<double>(finite);
  const double mean = finite == 0 ? NAN : sum / n;
  double deviations = 0;
  for (int64_t i = 0; i < width; i++) {
    const double d = static_cast<double>(row[i]) - mean;
    if (std::isfinite(row[i])) deviations += d * d;
  }
  const double all[kFigures] = {static_cast<double>(width),
                                static_cast<double>(width - finite),
                                mean,
                                finite == 0 ? NAN : std::sqrt(deviations / n),
                                finite == 0 ? NAN : low,
                                finite == 0 ? NAN : high,
                                finite == 0 ? NAN : std::sqrt(squares),
                                static_cast<double>(largest)};
  std::copy(all, all + kFigures, figures);
  for (int64_t j = 0; j < kSketch; j++) sketch[j] = static_cast<float>(sums[j]);
}

// ---------------------------------------------------------------------------------------------
// Copying a node's values

// Reads all values of a tensor in the order of its dimensions, whatever its strides.
template <typename Value>
void read_values(const ggml_tensor* t, std::vector<Value>& out, std::vector<unsigned char>& raw) {
  const size_t bytes = ggml_nbytes(t);
  raw.resize(bytes);
  ggml_backend_tensor_get(t, raw.data(), 0, bytes);
  out.resize(static_cast<size_t>(ggml_nelements(t)));
  size_t at = 0;
  for (int64_t i3 = 0; i3 < t->ne[3]; i3++) {
    for (int64_t i2 = 0; i2 < t->ne[2]; i2++) {
      for (int64_t i1 = 0; i1 < t->ne[1]; i1++) {
        const unsigned char* row = raw.data() + i3 * t->nb[3] + i2 * t->nb[2] + i1 * t->nb[1];
        for (int64_t i0 = 0; i0 < t->ne[0]; i0++, at++) {
          const unsigned char* from = row + i0 * t->nb[0];
          if (t->type == GGML_TYPE_F16) {
            ggml_fp16_t half;
            std::memcpy(&half, from, sizeof half);
            out[at] = static_cast<Value>(ggml_fp16_to_fp32(half));
          } else if (t->type == GGML_TYPE_BF16) {
            ggml_bf16_t half;
            std::memcpy(&half, from, sizeof half);
            out[at] = static_cast<Value>(ggml_bf16_to_fp32(half));
          } else {
            std::memcpy(&out[at], from, sizeof(Value));
          }
        }
      }
    }
  }
}

bool readable(ggml_type type, Form form) {
  if (form == Form::kExperts) return type == GGML_TYPE_I32;
  return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}

// ---------------------------------------------------------------------------------------------
// The observer: answers the scheduler's questions

class Observer {
 public:
  enum class Mode { kOff, kLook, kRecord };

  static bool callback(ggml_tensor* t, bool ask, void* self) {
    return static_cast<Observer*>(self)->on_node(t, ask);
  }

  void look() {
    graph = Graph();
    mode_ = Mode::kLook;
  }

  void off() { mode_ = Mode::kOff; }

  void record(TraceFile* file, std::vector<StepFile>* steps, int64_t all_tokens) {
    file_ = file;
    steps_ = steps;
    all_tokens_ = all_tokens;
    wanted_.clear();
    for (size_t i = 0; i < steps->size(); i++) {
      const Node& n = graph.nodes[static_cast<size_t>((*steps)[i].target.node)];
      wanted_[{n.name, n.op}].push_back({n.occurrence, i});
    }
    mode_ = Mode::kRecord;
  }

  // Before each llama_decode: which positions its rows are.
  void begin_pass(int64_t first_position, int64_t count) {
    first_ = first_position;
    count_ = count;
    occurrences_.clear();
    current_.clear();
  }

  Graph graph;
  std::string error;
  std::set<std::string> buffers;

 private:
  bool on_node(ggml_tensor* t, bool ask) {
    if (mode_ == Mode::kOff || !error.empty()) return !ask;
    if (mode_ == Mode::kLook) {
      if (ask) graph.add(t);
      return !ask;
    }
    if (ask) return is_wanted(t);
    try {
      for (const size_t step : current_) store((*steps_)[step], t);
    } catch (const std::exception& e) {
      error = e.what();  // must not pass through C code
    }
    return true;
  }

  // A node that nobody wants is answered with no: then the backend may run it with its neighbours.
  bool is_wanted(const ggml_tensor* t) {
    const auto found = wanted_.find({t->name, t->op});
    if (found == wanted_.end()) return false;
    const int occurrence = occurrences_[{t->name, t->op}]++;
    current_.clear();
    for (const auto& [number, step] : found->second) {
      if (number == occurrence) current_.push_back(step);
    }
    return !current_.empty();
  }

  void store(StepFile& step, const ggml_tensor* t) {
    const Target& target = step.target;
    if (!readable(t->type, target.form)) {
      fail(target.step + ": node " + t->name + " has the type " + ggml_type_name(t->type));
    }
    const ggml_backend_buffer_t buffer = t->view_src != nullptr ? t->view_src->buffer : t->buffer;
    if (buffer != nullptr) buffers.insert(ggml_backend_buffer_name(buffer));
    if (target.form == Form::kAttentionWeights) {
      store_weights(step, t);
    } else if (target.form == Form::kExperts) {
      read_values(t, integers_, raw_);
      store_rows(step, integers_);
    } else {
      read_values(t, values_, raw_);
      if (step.statistics) store_statistics(step);
      else store_rows(step, values_);
    }
  }

  // Values of a row in a node that has `size` in all; a step may be a part of each row.
  int64_t row_of(const StepFile& step, size_t size) const {
    const int64_t full = static_cast<int64_t>(size) / count_;
    if (full * count_ != static_cast<int64_t>(size) ||
        step.target.first + step.target.width > full) {
      fail(step.target.step + ": the node has " + std::to_string(size) + " values for " +
           std::to_string(count_) + " tokens, expected " + std::to_string(step.target.width) +
           " for each");
    }
    return full;
  }

  void store_statistics(StepFile& step) {
    const int64_t full = row_of(step, values_.size());
    figures_.resize(static_cast<size_t>(count_ * kFigures));
    sketches_.resize(static_cast<size_t>(count_ * kSketch));
    for (int64_t row = 0; row < count_; row++) {
      summarize(values_.data() + row * full + step.target.first, step.target.width,
                figures_.data() + row * kFigures, sketches_.data() + row * kSketch);
    }
    const uint64_t figures = static_cast<uint64_t>(kFigures) * sizeof(double);
    const uint64_t sketch = static_cast<uint64_t>(kSketch) * sizeof(float);
    const uint64_t first = static_cast<uint64_t>(first_);
    file_->write(step.offset + first * figures, figures_.data(), figures_.size() * sizeof(double));
    file_->write(step.offset + static_cast<uint64_t>(all_tokens_) * figures + first * sketch,
                 sketches_.data(), sketches_.size() * sizeof(float));
    step.rows_written += count_;
  }

  template <typename Value>
  void store_rows(StepFile& step, const std::vector<Value>& values) {
    const int64_t full = row_of(step, values.size());
    const int64_t width = step.target.width;
    const uint64_t row_bytes = static_cast<uint64_t>(width) * sizeof(Value);
    const uint64_t at = step.offset + static_cast<uint64_t>(first_) * row_bytes;
    if (full == width) {
      file_->write(at, values.data(), values.size() * sizeof(Value));
    } else {
      for (int64_t row = 0; row < count_; row++) {
        file_->write(at + static_cast<uint64_t>(row) * row_bytes,
                     values.data() + row * full + step.target.first, row_bytes);
      }
    }
    step.rows_written += count_;
  }

  // ggml has [keys of the cache, tokens, heads]; the trace has [tokens, heads, keys].
  void store_weights(StepFile& step, const ggml_tensor* t) {
    const int64_t keys = t->ne[0];
    if (t->ne[1] != count_ || t->ne[2] != step.heads || t->ne[3] != 1 || keys < first_ + count_) {
      fail(step.target.step + ": the cache does not hold one cell for each token");
    }
    read_values(t, values_, raw_);
    std::vector<float> row(static_cast<size_t>(step.row_values));
    for (int64_t token = 0; token < count_; token++) {
      std::fill(row.begin(), row.end(), 0.0f);
      for (int64_t head = 0; head < step.heads; head++) {
        const float* from = values_.data() + (head * count_ + token) * keys;
        std::copy(from, from + std::min(keys, all_tokens_), row.data() + head * all_tokens_);
      }
      file_->write(step.offset + static_cast<uint64_t>(first_ + token) * row.size() * sizeof(float),
                   row.data(), row.size() * sizeof(float));
    }
    step.rows_written += count_;
  }

  Mode mode_ = Mode::kOff;
  TraceFile* file_ = nullptr;
  std::vector<StepFile>* steps_ = nullptr;
  int64_t all_tokens_ = 0;
  int64_t first_ = 0;
  int64_t count_ = 0;
  std::map<NodeKey, std::vector<std::pair<int, size_t>>> wanted_;
  std::map<NodeKey, int> occurrences_;
  std::vector<size_t> current_;
  std::vector<float> values_;
  std::vector<double> figures_;
  std::vector<float> sketches_;
  std::vector<int32_t> integers_;
  std::vector<unsigned char> raw_;
};

// ---------------------------------------------------------------------------------------------
// The run

struct ModelFree {
  void operator()(llama_model* m) const { llama_model_free(m); }
  void operator()(llama_context* c) const { llama_free(c); }
};
using ModelPtr = std::unique_ptr<llama_model, ModelFree>;
using ContextPtr = std::unique_ptr<llama_context, ModelFree>;

ggml_type kv_type(const std::string& name) {
  if (name == "f32") return GGML_TYPE_F32;
  if (name == "f16") return GGML_TYPE_F16;
  if (name == "bf16") return GGML_TYPE_BF16;
  if (name == "q8_0") return GGML_TYPE_Q8_0;
  if (name == "q4_0") return GGML_TYPE_Q4_0;
  fail("--kv: '" + name + "' is none of f32, f16, bf16, q8_0, q4_0");
}

llama_flash_attn_type flash_type(const std::string& name) {
  if (name == "on") return LLAMA_FLASH_ATTN_TYPE_ENABLED;
  if (name == "off") return LLAMA_FLASH_ATTN_TYPE_DISABLED;
  if (name == "auto") return LLAMA_FLASH_ATTN_TYPE_AUTO;
  fail("--flash-attn: '" + name + "' is none of on, off, auto");
}

ContextPtr make_context(const Options& o, llama_model* model, int64_t tokens, int64_t prompt,
                        Observer* observer) {
  llama_context_params p = llama_context_default_params();
  p.n_ctx = static_cast<uint32_t>(tokens);
  p.n_batch = static_cast<uint32_t>(prompt);
  p.n_ubatch = static_cast<uint32_t>(prompt);  // one prefill, not several
  p.n_threads = o.threads;
  p.n_threads_batch = o.threads;
  p.type_k = kv_type(o.kv);
  p.type_v = kv_type(o.kv);
  p.flash_attn_type = flash_type(o.flash_attn);
  p.no_perf = true;
  if (observer != nullptr) {
    p.cb_eval = Observer::callback;
    p.cb_eval_user_data = observer;
  }
  ContextPtr context(llama_init_from_model(model, p));
  if (context == nullptr) {
    fail("llama.cpp could not make a context for " + std::to_string(tokens) + " tokens, --kv " +
         o.kv + ", --flash-attn " + o.flash_attn +
         (o.kv == "q8_0" || o.kv == "q4_0" ? " (a quantized cache of values needs flash attention)"
                                           : "") +
         "; --verbose shows its reason");
  }
  return context;
}

struct Batch {
  explicit Batch(int32_t size) : batch(llama_batch_init(size, 0, 1)) {}
  ~Batch() { llama_batch_free(batch); }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  llama_batch batch;
};

void feed(llama_context* context, const llama_token* tokens, int64_t count, int64_t first) {
  Batch b(static_cast<int32_t>(count));
  b.batch.n_tokens = static_cast<int32_t>(count);
  for (int64_t i = 0; i < count; i++) {
    b.batch.token[i] = tokens[i];
    b.batch.pos[i] = static_cast<llama_pos>(first + i);
    b.batch.n_seq_id[i] = 1;
    b.batch.seq_id[i][0] = 0;
    b.batch.logits[i] = 1;  // all of them: then the last layer has all rows
  }
  const int rc = llama_decode(context, b.batch);
  if (rc != 0) {
    fail("llama_decode gave " + std::to_string(rc) + " at position " + std::to_string(first) +
         "; --verbose shows its reason");
  }
}

llama_token best(const float* logits, int count) {
  return static_cast<llama_token>(std::max_element(logits, logits + count) - logits);
}

struct Run {
  std::vector<llama_token> tokens;
  std::vector<float> logits;  // only if kept
  double prefill_s = 0;
  double decode_s = 0;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Run run_model(llama_context* context, const Options& o, const std::vector<llama_token>& prompt,
              int decode, int vocabulary, Observer* observer, bool keep_logits) {
  Run run;
  run.tokens = prompt;
  const auto keep = [&](int64_t count) {
    for (int64_t i = 0; keep_logits && i < count; i++) {
      const float* row = llama_get_logits_ith(context, static_cast<int32_t>(i));
      if (row == nullptr) fail("llama.cpp gave no logits");
      run.logits.insert(run.logits.end(), row, row + vocabulary);
    }
  };
  const auto pass = [&](int64_t first, int64_t count) {
    if (observer != nullptr) observer->begin_pass(first, count);
    feed(context, run.tokens.data() + first, count, first);
    if (observer != nullptr && !observer->error.empty()) fail(observer->error);
    keep(count);
  };
  auto start = std::chrono::steady_clock::now();
  pass(0, static_cast<int64_t>(prompt.size()));
  run.prefill_s = seconds_since(start);
  start = std::chrono::steady_clock::now();
  for (int i = 0; i < decode; i++) {
    const float* last = llama_get_logits_ith(context, -1);
    if (last == nullptr) fail("llama.cpp gave no logits");
    run.tokens.push_back(o.decode_tokens.empty() ? best(last, vocabulary)
                                                 : o.decode_tokens[static_cast<size_t>(i)]);
    pass(static_cast<int64_t>(run.tokens.size()) - 1, 1);
  }
  run.decode_s = seconds_since(start);
  return run;
}

// ---------------------------------------------------------------------------------------------
// Choosing steps, and the header

bool matches(const char* pattern, const char* text) {
  const char* star = nullptr;
  const char* retry = nullptr;
  while (*text != '\0') {
    if (*pattern == '*') {
      star = pattern++;
      retry = text;
    } else if (*pattern == *text) {
      pattern++;
      text++;
    } else if (star != nullptr) {
      pattern = star + 1;
      text = ++retry;
    } else {
      return false;
    }
  }
  while (*pattern == '*') pattern++;
  return *pattern == '\0';
}

bool is_on_request(const std::string& step) {
  return matches("layer.*.attn.weights", step.c_str());
}

std::vector<StepFile> choose_steps(const std::vector<Target>& targets, const Options& o,
                                   int64_t tokens, int64_t heads) {
  std::vector<StepFile> chosen;
  std::set<std::string> used;
  uint64_t offset = 0;
  for (const Target& target : targets) {
    // The rows of attention weights hold keys that the query does not see: no statistics of them.
    if (o.statistics && is_on_request(target.step)) continue;
    bool take = o.steps.empty() && !is_on_request(target.step);
    for (const std::string& pattern : o.steps) {
      if (!matches(pattern.c_str(), target.step.c_str())) continue;
      used.insert(pattern);
      take = true;
    }
    if (!take) continue;
    StepFile step;
    step.target = target;
    step.heads = heads;
    step.row_values = target.form == Form::kAttentionWeights ? heads * tokens : target.width;
    step.statistics = o.statistics && target.form == Form::kRows;
    if (step.statistics) step.row_values = 2 * kFigures + kSketch;
    step.offset = offset;
    offset += static_cast<uint64_t>(step.row_values) * static_cast<uint64_t>(tokens) * 4;
    chosen.push_back(step);
  }
  for (const std::string& pattern : o.steps) {
    if (used.count(pattern) == 0) {
      fail("--steps '" + pattern + "' fits none of the " + std::to_string(targets.size()) +
           " steps of this graph; --list shows them");
    }
  }
  if (chosen.empty()) fail("no step of this graph is known; --list shows its nodes");
  return chosen;
}

std::string meta_value(const llama_model* model, const char* key) {
  char buffer[512];
  const int32_t length = llama_model_meta_val_str(model, key, buffer, sizeof buffer);
  return length < 0 ? std::string("unknown") : std::string(buffer);
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  return text;
}

struct About {
  std::string architecture;
  std::string model_name;
  std::string sha256;
  std::string backend;
  std::string observed;  // what --check found
  std::string created;
  std::string key_type;
  bool flash_attention = false;
  bool rotated_cache = false;
};

std::string metadata(const Options& o, const About& about, const std::vector<llama_token>& tokens,
                     size_t prompt) {
  std::string text = "{\"tokens\":[";
  for (size_t i = 0; i < tokens.size(); i++) {
    if (i > 0) text += ',';
    text += std::to_string(tokens[i]);
  }
  text += "],\"prompt\":" + std::to_string(prompt);
  text += ",\"engine\":{\"name\":\"llama.cpp\",\"version\":" + json_text(LLAMA_CAPTURE_VERSION());
  text += ",\"backend\":" + json_text(about.backend);
  text += ",\"threads\":" + json_text(std::to_string(o.threads));
  text += std::string(",\"flash_attn\":\"") + (about.flash_attention ? "on" : "off") + '"';
  text += ",\"kv_asked\":" + json_text(o.kv);
  if (about.rotated_cache) text += ",\"kv_rotation\":\"hadamard\"";
  text += ",\"gpu_layers\":" + json_text(std::to_string(o.gpu_layers));
  text += ",\"path\":\"batched prefill, serial decode\"";
  text += ",\"observer\":" + json_text(about.observed);
  text += ",\"capture\":\"llama_capture 1\"}";
  text += ",\"model\":{\"name\":" + json_text(about.model_name) +
          ",\"architecture\":" + json_text(about.architecture) + ",\"sha256\":\"" + about.sha256 +
          "\"}";
  text += ",\"kv_cache\":\"" + about.key_type + "\",\"created\":\"" + about.created + "\"}";
  return text;
}

// The figures of a step lie before its sketches.
std::string statistics_header(const StepFile& step, int64_t rows, uint64_t middle, uint64_t end) {
  const auto entry = [&](const char* ending, const char* dtype, int64_t width, uint64_t from,
                         uint64_t to) {
    return ",\n" + json_text(step.target.step + ending) + ":{\"dtype\":\"" + dtype +
           "\",\"shape\":[" + std::to_string(rows) + ',' + std::to_string(width) +
           "],\"data_offsets\":[" + std::to_string(from) + ',' + std::to_string(to) + "]}";
  };
  return entry(".stats", "F64", kFigures, step.offset, middle) +
         entry(".sketch", "F32", kSketch, middle, end);
}

std::string make_header(const Options& o, const About& about, const std::vector<StepFile>& steps,
                        const std::vector<llama_token>& tokens, size_t prompt) {
  std::string text = "{\"__metadata__\":{\"plumb.trace\":\"1\",\"plumb\":" +
                     json_text(metadata(o, about, tokens, prompt)) + "}";
  const int64_t rows = static_cast<int64_t>(tokens.size());
  for (const StepFile& step : steps) {
    const uint64_t bytes = static_cast<uint64_t>(step.row_values * rows) * 4;
    if (step.statistics) {
      const uint64_t middle = step.offset + static_cast<uint64_t>(rows * kFigures) * 8;
      text += statistics_header(step, rows, middle, step.offset + bytes);
      continue;
    }
    const bool experts = step.target.form == Form::kExperts;
    text += ",\n" + json_text(step.target.step) + ":{\"dtype\":\"" + (experts ? "I32" : "F32") +
            "\",\"shape\":[" + std::to_string(rows) + ',';
    text += step.target.form == Form::kAttentionWeights
                ? std::to_string(step.heads) + ',' + std::to_string(rows)
                : std::to_string(step.row_values);
    text += "],\"data_offsets\":[" + std::to_string(step.offset) + ',' +
            std::to_string(step.offset + bytes) + "]}";
  }
  return text + "}";
}

// ---------------------------------------------------------------------------------------------
// Telling the user

// Steps that nearly every model has; those that this graph lacks are said by name.
void print_unseen(const std::vector<Target>& targets, int layers) {
  std::set<std::string> have;
  for (const Target& t : targets) have.insert(t.step);
  std::vector<std::string> missing;
  for (const char* part :
       {"attn.norm", "attn.q", "attn.k", "attn.v", "attn.q_rope", "attn.k_rope", "attn.mix",
        "attn.out", "attn.residual", "ffn.norm", "ffn.up", "ffn.out", "residual"}) {
    std::string where;
    int count = 0;
    for (int i = 0; i < layers; i++) {
      const std::string step = "layer." + std::to_string(i) + "." + part;
      if (have.count(step) > 0) continue;
      where += (count > 0 ? "," : "") + std::to_string(i);
      count++;
    }
    if (count == 0) continue;
    missing.push_back("layer.*." + std::string(part) +
                      (count == layers ? " (all layers)" : " (layers " + where + ")"));
  }
  for (const char* step : {"embedding", "final.norm", "logits"}) {
    if (have.count(step) == 0) missing.emplace_back(step);
  }
  if (missing.empty()) return;
  std::printf("not in this graph, or not under a name that is known:\n");
  for (const std::string& line : missing) std::printf("  %s\n", line.c_str());
}

void print_list(const Graph& graph, const std::vector<Target>& targets) {
  std::map<int, std::string> steps;
  for (const Target& t : targets) {
    std::string& text = steps[t.node];
    text += (text.empty() ? "" : ", ") + t.step;
  }
  for (size_t i = 0; i < graph.nodes.size(); i++) {
    const Node& n = graph.nodes[i];
    const auto found = steps.find(static_cast<int>(i));
    std::printf("%-14s %-32s %8lld  %s\n", ggml_op_name(n.op), n.name.c_str(),
                static_cast<long long>(n.width), found == steps.end() ? "" : found->second.c_str());
  }
}

// Are the logits of both runs the same bits? Says so, and where not.
bool same_logits(const Run& plain, const Run& observed, int vocabulary) {
  if (plain.tokens != observed.tokens) {
    std::printf("check       DIFFERENT: the observed run chose other tokens than the plain run\n");
    return false;
  }
  const size_t rows = plain.logits.size() / static_cast<size_t>(vocabulary);
  size_t different = 0;
  double largest = 0;
  for (size_t i = 0; i < plain.logits.size(); i++) {
    if (std::memcmp(&plain.logits[i], &observed.logits[i], sizeof(float)) == 0) continue;
    different++;
    largest = std::max(largest, std::fabs(double(plain.logits[i]) - double(observed.logits[i])));
  }
  if (different == 0) {
    std::printf(
        "check       the logits are the same bits with and without the observer (%zu rows)\n",
        rows);
    return true;
  }
  std::printf(
      "check       DIFFERENT: %zu of %zu logits, largest difference %g. The observer changed\n"
      "            the run: the backend fuses operations that it did not fuse here. Record\n"
      "            fewer steps with --steps.\n",
      different, plain.logits.size(), largest);
  return false;
}

// ---------------------------------------------------------------------------------------------

std::vector<llama_token> prompt_tokens(const Options& o, const llama_vocab* vocab) {
  std::vector<llama_token> tokens = o.tokens;
  if (o.has_prompt) {
    const int32_t length = static_cast<int32_t>(o.prompt.size());
    const int32_t need = -llama_tokenize(vocab, o.prompt.data(), length, nullptr, 0, true, true);
    tokens.resize(static_cast<size_t>(std::max(need, 0)));
    llama_tokenize(vocab, o.prompt.data(), length, tokens.data(), need, true, true);
  }
  if (tokens.empty()) fail("the prompt has no tokens");
  const int32_t size = llama_vocab_n_tokens(vocab);
  for (const std::vector<llama_token>* list :
       std::initializer_list<const std::vector<llama_token>*>{&tokens, &o.decode_tokens}) {
    for (const llama_token id : *list) {
      if (id >= size) {
        fail("token " + std::to_string(id) + " is outside the vocabulary of " +
             std::to_string(size));
      }
    }
  }
  return tokens;
}

ModelPtr load_model(const Options& o) {
  llama_model_params p = llama_model_default_params();
  p.n_gpu_layers = o.gpu_layers;
  ModelPtr model(llama_model_load_from_file(o.model.c_str(), p));
  if (model == nullptr) {
    fail(o.model + ": llama.cpp could not load it; --verbose shows its reason");
  }
  return model;
}

void check_complete(const std::vector<StepFile>& steps, int64_t tokens) {
  std::string bad;
  for (const StepFile& step : steps) {
    if (step.rows_written != tokens) {
      bad += "\n  " + step.target.step + ": " + std::to_string(step.rows_written) + " of " +
             std::to_string(tokens) + " rows";
    }
  }
  if (!bad.empty()) {
    fail(
        "these steps were wanted and their nodes were not seen in each pass, so that no trace is "
        "written:" +
        bad);
  }
}

void print_result(const Options& o, const About& about, const std::vector<StepFile>& steps,
                  const Run& run, size_t prompt) {
  uint64_t values = 0;
  for (const StepFile& s : steps) values += static_cast<uint64_t>(s.row_values) * run.tokens.size();
  std::printf("wrote       %s: %s%zu steps, %zu tokens (%zu prompt, %zu decoded), %.1f MB\n",
              o.output.c_str(), o.statistics ? "statistics of " : "", steps.size(),
              run.tokens.size(), prompt, run.tokens.size() - prompt,
              static_cast<double>(values) * 4e-6);
  std::printf("engine      llama.cpp %s, %s, %d threads, flash attention %s, KV cache %s\n",
              LLAMA_CAPTURE_VERSION(), about.backend.c_str(), o.threads,
              about.flash_attention ? "on" : "off", o.kv.c_str());
  if (about.key_type != o.kv) {
    std::printf("            the attention reads keys and values as %s\n", about.key_type.c_str());
  }
  if (about.rotated_cache) {
    std::printf("            the cache holds keys and values turned by a Hadamard matrix\n");
  }
}

void print_times(const Run& plain, const Run& observed, bool have_plain) {
  std::printf("time        prefill %.3f s, decode %.3f s observed", observed.prefill_s,
              observed.decode_s);
  if (have_plain) {
    std::printf("; %.3f s, %.3f s not observed", plain.prefill_s, plain.decode_s);
  }
  std::printf("\n");
}

int capture(const Options& o) {
  if (!o.verbose) llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  const ModelPtr model = load_model(o);
  const llama_vocab* vocab = llama_model_get_vocab(model.get());
  const int vocabulary = llama_vocab_n_tokens(vocab);
  const std::vector<llama_token> prompt = prompt_tokens(o, vocab);
  const int decode = o.decode_tokens.empty() ? o.decode : static_cast<int>(o.decode_tokens.size());
  const int64_t total = static_cast<int64_t>(prompt.size()) + decode;
  if (total > kMaxTokens) fail("more than " + std::to_string(kMaxTokens) + " tokens");
  const int64_t in_prompt = static_cast<int64_t>(prompt.size());

  Run plain;
  if (o.check && !o.list) {
    const ContextPtr context = make_context(o, model.get(), total, in_prompt, nullptr);
    plain = run_model(context.get(), o, prompt, decode, vocabulary, nullptr, true);
  }

  // One token is fed to see the graph: which nodes it has, and how wide they are.
  Observer observer;
  const ContextPtr context = make_context(o, model.get(), total, in_prompt, &observer);
  observer.look();
  feed(context.get(), prompt.data(), 1, 0);
  observer.off();
  llama_memory_clear(llama_get_memory(context.get()), true);
  Mapper mapper(observer.graph);
  const std::vector<Target> targets = mapper.map();
  if (o.list) {
    print_list(observer.graph, targets);
    print_unseen(targets, llama_model_n_layer(model.get()));
    return kExitDone;
  }

  std::vector<StepFile> steps = choose_steps(targets, o, total, llama_model_n_head(model.get()));
  About about;
  about.architecture = meta_value(model.get(), "general.architecture");
  about.model_name = meta_value(model.get(), "general.name");
  about.sha256 = sha256_of_file(o.model);
  about.created = now_utc();
  about.flash_attention = observer.graph.flash_attention;
  about.key_type = observer.graph.key_type == "unknown" ? o.kv : observer.graph.key_type;
  about.rotated_cache = mapper.rotated_cache;
  about.observed = o.check ? "changes no bit of the logits" : "not checked";
  // Room for the longest token ids and for the names of many backends.
  const std::vector<llama_token> longest(static_cast<size_t>(total), INT32_MAX);
  const size_t room = make_header(o, about, steps, longest, prompt.size()).size() + 4096;
  TraceFile file(o.output, (room + 7) / 8 * 8);
  observer.record(&file, &steps, total);
  const Run run = run_model(context.get(), o, prompt, decode, vocabulary, &observer, o.check);
  check_complete(steps, total);

  const bool same = !o.check || same_logits(plain, run, vocabulary);
  if (!same) about.observed = "changes the logits";
  for (const std::string& name : observer.buffers) {
    about.backend += (about.backend.empty() ? "" : ", ") + name;
  }
  if (about.backend.size() > 1024) about.backend.resize(1024);
  file.finish(make_header(o, about, steps, run.tokens, prompt.size()));
  print_result(o, about, steps, run, prompt.size());
  print_times(plain, run, o.check);
  print_unseen(targets, llama_model_n_layer(model.get()));
  return same ? kExitDone : kExitDiffers;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return capture(parse_options(argc, argv));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "llama_capture: %s\n", e.what());
    return kExitFailed;
  }
}
