package ort

import (
	"runtime"
	"slices"

	"golang.org/x/sys/cpu"
)

// CPUFeatures are the instruction sets of this machine that decide about the speed and the exactness of int8 and fp32
// models, such as "avx2", "avx512vnni" or "amx-int8".
func CPUFeatures() []string {
	var names []string
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"avx2", cpu.X86.HasAVX2},
		{"avx512f", cpu.X86.HasAVX512F},
		{"avxvnni", cpu.X86.HasAVXVNNI},
		{"avx512vnni", cpu.X86.HasAVX512VNNI},
		{"avx512bf16", cpu.X86.HasAVX512BF16},
		{"amx-tile", cpu.X86.HasAMXTile},
		{"amx-int8", cpu.X86.HasAMXInt8},
		{"amx-bf16", cpu.X86.HasAMXBF16},
		{"dotprod", cpu.ARM64.HasASIMDDP},
		{"i8mm", cpu.ARM64.HasI8MM},
	} {
		if f.has {
			names = append(names, f.name)
		}
	}
	return names
}

// Int8Speed says in words what the CPU's instructions mean for int8 models.
func Int8Speed() string { return int8Speed(CPUFeatures()) }

func int8Speed(features []string) string {
	for _, c := range []struct{ feature, words string }{
		{"amx-int8", "AMX, full speed"},
		{"avx512vnni", "AVX512-VNNI, full speed"},
		{"avxvnni", "AVX-VNNI, full speed"},
		{"avx2", "AVX2 without VNNI: right answers, but hardly faster than fp32"},
		{"i8mm", "I8MM, full speed"},
		{"dotprod", "dot product, full speed"},
	} {
		if slices.Contains(features, c.feature) {
			return c.words
		}
	}
	return "no 8-bit dot product and no AVX2: slow"
}

// saturatesInt8 says whether the CPU's u8 x s8 products overflow 16 bits: x86 without VNNI adds two of them in an
// int16.
func saturatesInt8() bool {
	return runtime.GOARCH == "amd64" && !cpu.X86.HasAVXVNNI && !cpu.X86.HasAVX512VNNI
}

// processCPUs are the cores that this process may use, in ascending order; nil where that is unknown. They are asked
// for before any thread is pinned: later, the answer may be that of a pinned thread.
var processCPUs = allowedCPUs()

// DefaultRunners is the number of cores that this process can keep busy: GOMAXPROCS, which follows the container's CPU
// limit, and no more than the cores it is allowed to run on.
func DefaultRunners() int {
	n := runtime.GOMAXPROCS(0)
	if len(processCPUs) > 0 {
		n = min(n, len(processCPUs))
	}
	return n
}
