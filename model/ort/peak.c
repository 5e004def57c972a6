// The peak is what no matrix product can pass: independent accumulators hide the latency, operands stay in registers.
// The compiler does not know the value of what OPAQUE touched: it may neither merge accumulators that look alike nor
// hoist a product out of the loop.

#include "peak.h"
#include <stdint.h>
#include <time.h>

#define OPAQUE_X86(v) __asm__ volatile("" : "+v"(v))
#define OPAQUE_X86_YMM(v) __asm__ volatile("" : "+x"(v))
#define TIMES12(S) S(0) S(1) S(2) S(3) S(4) S(5) S(6) S(7) S(8) S(9) S(10) S(11)

typedef double loop(long rounds); // returns the multiply-accumulates that it did

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((target("avx2"))) static double loop_avx2(long rounds) {
	__m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2), ones = _mm256_set1_epi16(1);
#define DECLARE(k) __m256i c##k = _mm256_setzero_si256(); OPAQUE_X86_YMM(c##k);
#define STEP(k) OPAQUE_X86_YMM(a); c##k = _mm256_add_epi32(c##k, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
#define KEEP(k) OPAQUE_X86_YMM(c##k);
	TIMES12(DECLARE)
	for (long i = 0; i < rounds; i++) {
		TIMES12(STEP)
	}
	TIMES12(KEEP)
#undef DECLARE
#undef STEP
#undef KEEP
	return 12.0 * 32 * rounds;
}

__attribute__((target("avx2,avxvnni"))) static double loop_avx_vnni(long rounds) {
	__m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2);
#define DECLARE(k) __m256i c##k = _mm256_setzero_si256(); OPAQUE_X86_YMM(c##k);
#define STEP(k) c##k = _mm256_dpbusd_avx_epi32(c##k, a, b);
#define KEEP(k) OPAQUE_X86_YMM(c##k);
	TIMES12(DECLARE)
	for (long i = 0; i < rounds; i++) {
		OPAQUE_X86_YMM(a);
		TIMES12(STEP)
	}
	TIMES12(KEEP)
#undef DECLARE
#undef STEP
#undef KEEP
	return 12.0 * 32 * rounds;
}

__attribute__((target("avx512f,avx512vnni"))) static double loop_avx512_vnni(long rounds) {
	__m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
#define DECLARE(k) __m512i c##k = _mm512_setzero_si512(); OPAQUE_X86(c##k);
#define STEP(k) c##k = _mm512_dpbusd_epi32(c##k, a, b);
#define KEEP(k) OPAQUE_X86(c##k);
	TIMES12(DECLARE)
	for (long i = 0; i < rounds; i++) {
		OPAQUE_X86(a);
		TIMES12(STEP)
	}
	TIMES12(KEEP)
#undef DECLARE
#undef STEP
#undef KEEP
	return 12.0 * 64 * rounds;
}

#if __has_include(<amxint8intrin.h>)
__attribute__((target("amx-tile,amx-int8"))) static double loop_amx(long rounds) {
	struct {
		uint8_t palette, start;
		uint8_t reserved[14];
		uint16_t bytes[16];
		uint8_t rows[16];
	} shape = {.palette = 1};
	for (int t = 0; t < 8; t++) {
		shape.bytes[t] = 64;
		shape.rows[t] = 16;
	}
	// gcc's header says that the instruction reads 8 bytes; without this it drops the stores to the other 56.
	__asm__ volatile("" : : "r"(&shape) : "memory");
	_tile_loadconfig(&shape);
	_tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
	_tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
	for (long i = 0; i < rounds; i++) { // as a 2 x 2 block of a product
		_tile_dpbusd(0, 4, 6);
		_tile_dpbusd(1, 4, 7);
		_tile_dpbusd(2, 5, 6);
		_tile_dpbusd(3, 5, 7);
	}
	_tile_release();
	return 4.0 * 16 * 16 * 64 * rounds;
}

// Linux lends the tiles' state only to a process that asks.
static int amx_allowed(void) {
#ifdef SYS_arch_prctl
	return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XFEATURE_XTILEDATA */) == 0;
#else
	return 0;
#endif
}
#endif

static loop *loop_of(enum int8_unit unit) {
	switch (unit) {
	case avx2: return loop_avx2;
	case avx_vnni: return loop_avx_vnni;
	case avx512_vnni: return loop_avx512_vnni;
#if __has_include(<amxint8intrin.h>)
	case amx_int8: return amx_allowed() ? loop_amx : 0;
#endif
	default: return 0;
	}
}

#elif defined(__aarch64__)
#include <arm_neon.h>

#define OPAQUE_ARM(v) __asm__ volatile("" : "+w"(v))
#define DECLARE(k) int32x4_t c##k = vdupq_n_s32(0); OPAQUE_ARM(c##k);
#define KEEP(k) OPAQUE_ARM(c##k);

__attribute__((target("arch=armv8.2-a+dotprod"))) static double loop_sdot(long rounds) {
	int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(2);
#define STEP(k) c##k = vdotq_s32(c##k, a, b);
	TIMES12(DECLARE)
	for (long i = 0; i < rounds; i++) {
		OPAQUE_ARM(a);
		TIMES12(STEP)
	}
	TIMES12(KEEP)
#undef STEP
	return 12.0 * 16 * rounds;
}

__attribute__((target("arch=armv8.2-a+i8mm"))) static double loop_smmla(long rounds) {
	int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(2);
#define STEP(k) c##k = vmmlaq_s32(c##k, a, b);
	TIMES12(DECLARE)
	for (long i = 0; i < rounds; i++) {
		OPAQUE_ARM(a);
		TIMES12(STEP)
	}
	TIMES12(KEEP)
#undef STEP
	return 12.0 * 32 * rounds;
}

static loop *loop_of(enum int8_unit unit) {
	switch (unit) {
	case arm_sdot: return loop_sdot;
	case arm_smmla: return loop_smmla;
	default: return 0;
	}
}

#else

static loop *loop_of(enum int8_unit unit) { return 0; }

#endif

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + 1e-9 * t.tv_nsec;
}

double int8_rate(enum int8_unit unit) {
	loop *run = loop_of(unit);
	if (!run) return 0;
	double best = 0;
	long rounds = 1000; // grows until a burst lasts 4 ms; then eight bursts, of which the system disturbs some
	for (int bursts = 0; bursts < 8;) {
		double began = now(), work = run(rounds), took = now() - began;
		if (took < 4e-3) {
			rounds *= 2;
			continue;
		}
		if (work / took > best) best = work / took;
		bursts++;
	}
	return best;
}
