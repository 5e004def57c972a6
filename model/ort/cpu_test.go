package ort

import (
	"strings"
	"testing"
)

func TestInt8SpeedNamesTheBestInstruction(t *testing.T) {
	for features, words := range map[string]string{
		"avx2 avx512f avx512vnni amx-tile amx-int8 amx-bf16": "AMX, full speed",
		"avx2 avx512f avxvnni avx512vnni avx512bf16":         "AVX512-VNNI, full speed",
		"avx2 avxvnni":                   "AVX-VNNI, full speed",
		"avx2":                           "AVX2 without VNNI: right answers, but hardly faster than fp32",
		"avx2 avx512f amx-tile amx-bf16": "AVX2 without VNNI: right answers, but hardly faster than fp32",
		"dotprod i8mm":                   "I8MM, full speed",
		"dotprod":                        "dot product, full speed",
		"":                               "no 8-bit dot product and no AVX2: slow",
	} {
		if got := int8Speed(strings.Fields(features)); got != words {
			t.Errorf("%q: %q instead of %q", features, got, words)
		}
	}
	// What is said of this machine is what its sessions do.
	if slow := strings.Contains(Int8Speed(), "without VNNI"); slow && !saturatesInt8() {
		t.Errorf("%s, but sessions take the products as exact", Int8Speed())
	}
}
