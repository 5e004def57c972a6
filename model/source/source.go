// Package source says where models come from: a directory, or whatever else has a line here. A place of models that is
// named by a URI, such as a registry, is a Source that brings the model to this machine.
package source

import (
	"context"

	"sluice/model"
)

// Source brings models of one scheme to this machine.
type Source interface {
	// Fetch returns the directory that holds the model of a reference, which has the scheme and a colon before it where
	// it is no path. The directory is not written to by others from then on. An error says what is missing and what to
	// do; it ends the start of a worker.
	Fetch(ctx context.Context, ref string) (dir string, err error)
}

// All are the sources by scheme; "" is that of paths. A reference with another scheme is refused by model.Open, which
// says that only directories are read.
var All = map[string]Source{"": Directories{}}

// Directories is the source of models that are on this machine already.
type Directories struct{}

// Fetch implements Source.
func (Directories) Fetch(_ context.Context, path string) (string, error) { return path, nil }

// Open fetches the model of a reference and opens its directory (model.Open).
func Open(ctx context.Context, ref string) (*model.Model, error) {
	from, known := All[model.Scheme(ref)]
	if !known {
		from = All[""]
	}
	dir, err := from.Fetch(ctx, ref)
	if err != nil {
		return nil, err
	}
	return model.Open(dir)
}
