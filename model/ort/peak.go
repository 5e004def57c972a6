package ort

// #cgo CFLAGS: -O2
// #include "peak.h"
import "C"

import (
	"golang.org/x/sys/cpu"
)

// int8Units are the ways to multiply bytes, with the name of their instruction.
var int8Units = []struct {
	unit C.enum_int8_unit
	name string
	has  bool
}{
	{C.amx_int8, "AMX tdpbusd", cpu.X86.HasAMXInt8},
	{C.avx512_vnni, "AVX512-VNNI vpdpbusd", cpu.X86.HasAVX512VNNI},
	{C.avx_vnni, "AVX-VNNI vpdpbusd", cpu.X86.HasAVXVNNI},
	{C.avx2, "AVX2 vpmaddubsw, vpmaddwd", cpu.X86.HasAVX2 && saturatesInt8()},
	{C.arm_smmla, "i8mm smmla", cpu.ARM64.HasI8MM},
	{C.arm_sdot, "dotprod sdot", cpu.ARM64.HasASIMDDP},
}

// PeakInt8 measures how many billion int8 multiply-accumulates one core does in a second when it does nothing else: the
// rate that no model can pass on this machine. how names the instruction that reached it. It computes for about 100 ms,
// on a core that other work should leave alone, and gives 0 where no int8 instruction is known.
func PeakInt8() (gmacs float64, how string) {
	how = "no int8 dot product"
	for _, u := range int8Units {
		if !u.has {
			continue
		}
		if rate := rateOf(u.unit); rate > gmacs {
			gmacs, how = rate, u.name
		}
	}
	return gmacs, how
}

func rateOf(unit C.enum_int8_unit) float64 { return float64(C.int8_rate(unit)) / 1e9 }
