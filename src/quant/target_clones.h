// SPDX-License-Identifier: Apache-2.0
// PLUMB_TARGET_CLONES before a function: it is compiled twice, for the base processor and for AVX2,
// and the loader picks one. Both give the same bits: AVX2 alone has no fused operation, and float
// operations keep their order. Sanitizers start after the loader has run the picking code, so they
// get the base version only, which also puts it under test.
#pragma once

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define PLUMB_ONE_TARGET
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__x86_64__) || \
    !defined(__gnu_linux__)
#define PLUMB_ONE_TARGET
#endif

#ifdef PLUMB_ONE_TARGET
#define PLUMB_TARGET_CLONES
#else
#define PLUMB_TARGET_CLONES __attribute__((target_clones("default", "avx2")))
#endif
