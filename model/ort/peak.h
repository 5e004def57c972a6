// Loops of one int8 dot-product instruction, for peak.go.
enum int8_unit { avx2, avx_vnni, avx512_vnni, amx_int8, arm_sdot, arm_smmla };

// int8_rate is the rate of multiply-accumulates per second of the calling thread's core, from registers alone, best of
// a few bursts; 0 where the compiler or the system has no such unit.
double int8_rate(enum int8_unit unit);
