package rewrite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReplaceKeepsLinksAndPermissions(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "c.yaml"), filepath.Join(dir, "link.yaml")
	if err := os.WriteFile(file, []byte("before"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := Replace(link, []byte("before"), []byte("after")); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(file)
	if err != nil || string(now) != "after" {
		t.Errorf("%q, %v", now, err)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v", err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("permissions %v, %v", st.Mode(), err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

func TestReplaceLeavesWhatWasChangedMeanwhile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("somebody else's"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Replace(file, []byte("before"), []byte("after"))
	if err == nil || !strings.Contains(err.Error(), "was changed meanwhile") {
		t.Errorf("%v", err)
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != "somebody else's" {
		t.Errorf("%q, %v", now, err)
	}
}
