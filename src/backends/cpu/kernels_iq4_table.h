// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stdint.h>

namespace plumb::cpu {

// What the 4-bit codes of IQ4_NL and IQ4_XS stand for: kIq4Values of quant/iq_grids.h as bytes,
// without its C++ headers. A test compares the two types against dequantize().
alignas(16) static constexpr int8_t kIq4Table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                     1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace plumb::cpu
