// Included before every source of llama.cpp (see the Makefile).
#if defined(WITHOUT_AMX)
// GGML_NATIVE compiles for AMX where this machine has it; with these gone, for the same machine without.
#undef __AMX_TILE__
#undef __AMX_INT8__
#undef __AMX_BF16__
#elif defined(__AMX_TILE__) && !defined(__clang__)
// gcc 12 says that _tile_loadconfig reads 8 of the 64 bytes of the tile configuration, so it drops the stores to the
// others, and the first AMX instruction of llama.cpp is then illegal (ggml-org/llama.cpp, pull request 26954).
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
#endif
