package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLabelledTextsAreReadWithTheirColumnsInAnyOrder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dev.tsv")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("text\tlabel\nit 's \"fine\"\tPOSITIVE\nno\tNEGATIVE\n")
	got, err := readLabelled(file)
	if err != nil || len(got) != 2 || got[0].Text != `it 's "fine"` || got[1].Label != "NEGATIVE" {
		t.Errorf("%+v, %v", got, err)
	}
	for content, want := range map[string]string{"": "at least one text", "a\tb\n1\t2\n": "columns label and text", "label\ttext\nPOSITIVE\n": ":2: 1 columns"} {
		write(content)
		if _, err := readLabelled(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
}
