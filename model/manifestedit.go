package model

// Writes a calibration into the bytes of a manifest.json and leaves all other bytes as they are: a manifest is read by
// people and compared line by line.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// WithCalibration is the manifest raw with c as its "calibration", in place of one that is there, else before "golden"
// or as the last member. A nil c takes the calibration out. The result is checked as Open does.
func WithCalibration(raw []byte, c *Calibration) ([]byte, error) {
	members, err := membersOf(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	var text []byte
	if c != nil {
		value, err := json.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("%s: calibration: %w", ManifestFile, err)
		}
		var b bytes.Buffer
		b.WriteString(`"calibration": `)
		if err := json.Indent(&b, value, "  ", "  "); err != nil {
			return nil, fmt.Errorf("%s: calibration: %w", ManifestFile, err)
		}
		text = b.Bytes()
	}
	var out []byte
	at := func(name string) int {
		for i := range members {
			if members[i].name == name {
				return i
			}
		}
		return -1
	}
	switch old, golden := at("calibration"), at("golden"); {
	case len(members) == 0:
		return nil, fmt.Errorf("%s: is empty: export the model again", ManifestFile)
	case old >= 0 && c != nil:
		m := members[old]
		out = join(raw[:m.from], text, raw[m.to:])
	case old > 0: // taken out with the comma before it
		out = join(raw[:members[old-1].to], raw[members[old].to:])
	case old == 0 && len(members) > 1:
		out = join(raw[:members[0].from], raw[members[1].from:])
	case c == nil:
		out = bytes.Clone(raw)
	case golden >= 0:
		out = join(raw[:members[golden].from], text, []byte(",\n  "), raw[members[golden].from:])
	default:
		last := members[len(members)-1]
		out = join(raw[:last.to], []byte(",\n  "), text, raw[last.to:])
	}
	if _, err := parseManifest(out); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	return out, nil
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// member is where one member of a JSON object stands: raw[from:to] is its name, colon and value.
type member struct {
	name     string
	from, to int
}

func membersOf(raw []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("is not a JSON object: export the model again")
	}
	var members []member
	for d.More() {
		from := int(d.InputOffset())
		from += bytes.IndexByte(raw[from:], '"') // behind a comma and white space
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		members = append(members, member{name.(string), from, int(d.InputOffset())})
	}
	_, err := d.Token()
	return members, err
}
