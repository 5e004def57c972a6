package source

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// registry is a place of models that has none.
type registry struct{ asked *string }

// Fetch implements Source.
func (r registry) Fetch(_ context.Context, ref string) (string, error) {
	*r.asked = ref
	return "", errors.New("the registry has no such model")
}

func TestAReferenceGoesToItsSource(t *testing.T) {
	asked := ""
	All["toy"] = registry{&asked}
	defer delete(All, "toy")
	for ref, want := range map[string]string{
		"toy:sentiment@prod":    "the registry has no such model",
		"mlflow:sentiment@prod": "directories only",
		"no/such/directory":     "no/such/directory",
	} {
		if _, err := Open(context.Background(), ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
	if asked != "toy:sentiment@prod" {
		t.Errorf("the registry was asked for %q", asked)
	}
}
