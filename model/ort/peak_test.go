package ort

import (
	"strings"
	"testing"
)

// The loops are checked against what cores can do: a clock of 1 to 6 GHz, and as many instructions a cycle as the
// widest core of that kind begins. A compiler that merges accumulators makes a loop look faster than that; one bound by
// latency or by memory is slower than one instruction in four cycles.
func TestPeakInt8IsARateOfThisCore(t *testing.T) {
	perCycle := map[string]float64{ // multiply-accumulates of one instruction, times instructions a cycle
		"AMX tdpbusd": 1024, "AVX512-VNNI vpdpbusd": 2 * 64, "AVX-VNNI vpdpbusd": 2 * 32,
		"AVX2 vpmaddubsw, vpmaddwd": 2 * 32,
		"i8mm smmla":                4 * 32, "dotprod sdot": 4 * 16,
	}
	has := false
	for _, u := range int8Units {
		if !u.has {
			continue
		}
		has = true
		gmacs, most := rateOf(u.unit), perCycle[u.name]*6
		if gmacs > most || gmacs < perCycle[u.name]/8 {
			t.Errorf("%s: %.1f GMAC/s; a core does up to %.0f", u.name, gmacs, most)
		}
		t.Logf("%s: %.0f GMAC/s", u.name, gmacs)
	}
	best, how := PeakInt8()
	switch {
	case !has && best != 0:
		t.Errorf("%.0f GMAC/s by %s on a CPU without int8 instructions", best, how)
	case has && (best == 0 || perCycle[how] == 0):
		t.Errorf("peak is %.0f GMAC/s by %q", best, how)
	}
}

// A 512-bit instruction does twice the work of a 256-bit one; if the loops were bound by latency or memory instead of
// the unit, or counted their work wrongly, the ratio would be off.
func TestPeakLoopsAgree(t *testing.T) {
	rates := map[string]float64{}
	for _, u := range int8Units {
		if u.has {
			rates[u.name] = rateOf(u.unit)
		}
	}
	zmm, ymm := rates["AVX512-VNNI vpdpbusd"], rates["AVX-VNNI vpdpbusd"]
	if zmm == 0 || ymm == 0 {
		// No part of CI is missing: it is another CPU.
		t.Skipf("SKIPPED, NOT TESTED: needs a CPU with AVX512-VNNI and AVX-VNNI; this one has %s",
			strings.Join(CPUFeatures(), " "))
	}
	if r := zmm / ymm; r < 0.6 || r > 3.2 {
		t.Errorf("AVX512-VNNI is %.2f times AVX-VNNI (%.0f and %.0f GMAC/s): it should be once (256-bit units) or "+
			"twice", r, zmm, ymm)
	}
}
