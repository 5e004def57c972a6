package house

import (
	"fmt"
	"os/exec"
	"strings"
)

// Linked are the import paths of all packages that go into a command.
func Linked(root, command string) ([]string, error) {
	c := exec.Command("go", "list", "-deps", command)
	c.Dir = root
	out, err := c.Output()
	if err != nil {
		if e, ok := err.(*exec.ExitError); ok {
			return nil, fmt.Errorf("go list -deps %s: %s", command, e.Stderr)
		}
		return nil, fmt.Errorf("go list -deps %s: %w", command, err)
	}
	return strings.Fields(string(out)), nil
}

// Binary finds packages of tests and measurements among those of a command: Go's testing, rooms for tests, bench.
func Binary(command string, linked []string) (found []Finding) {
	for _, name := range linked {
		own, ours := strings.CutPrefix(name, module)
		if name == "testing" || strings.HasPrefix(name, "testing/") || name == "net/http/httptest" ||
			ours && (ForTests(own) || own == "bench" || strings.HasPrefix(own, "bench/")) {
			found = append(found, Finding{"binary", command, 0, name + " is linked into it; `go mod why " + name +
				"` or `go list -deps` tells by whom; what only tests need must stay outside"})
		}
	}
	return found
}
