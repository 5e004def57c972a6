package config_test

import (
	"fmt"
	"time"

	"sluice/cmd/sluice/config"
)

// A room hands in its section: a struct with the defaults, and a table that says what its keys are. Whoever loads the
// configuration gets every mistake at once.
func Example() {
	backup := struct {
		Folder string        `key:"folder"`
		Every  time.Duration `key:"every"`
		Keep   int           `key:"keep"`
	}{Every: time.Hour, Keep: 3}

	schema := config.New(config.Section{
		Name:  "backup",
		Value: &backup,
		Keys: []config.Key{
			{Name: "folder", Need: true, File: config.FileName, Example: "/backup", Doc: "where backups are written"},
			{Name: "every", Range: config.Range{Least: "1m", Most: "24h"}, Example: "1h", Doc: "how often"},
			{Name: "keep", Range: config.Range{Least: "1"}, Example: "3", Doc: "how many are kept"},
		},
		Check: func(c *config.Check) {
			if backup.Every < time.Hour && backup.Keep < 10 {
				c.Between([]string{"backup.keep", "backup.every"}, "%d cover less than a day; keep more", backup.Keep)
			}
		},
	})
	_, err := schema.Parse([]byte(`
backup:
  evry: 2h
  every: 30m
`), config.Source{File: "app.yaml", Environ: []string{"SLUICE_BACKUP__EVERY=10s"}})
	fmt.Println(err)

	// Output:
	// app.yaml:2: backup.folder: is missing (where backups are written); write for example /backup
	// app.yaml:3: backup.evry: unknown key; did you mean backup.every?
	// SLUICE_BACKUP__EVERY: backup.every: 10s is out of range; between 1m and 24h
}
