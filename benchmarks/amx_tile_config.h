// Included before every C++ source of llama.cpp where gcc compiles it (see the Makefile).
// gcc 12 says that _tile_loadconfig reads 8 of the 64 bytes of the tile configuration, so it drops the stores to the
// others, and the first AMX instruction of llama.cpp is then illegal (ggml-org/llama.cpp, pull request 26954).
#if defined(__AMX_TILE__) && !defined(__clang__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
#endif
