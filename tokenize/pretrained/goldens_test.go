package pretrained_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"sluice/tokenize/pretrained"
	"sluice/tokenize/pretrained/pretrainedtest"
)

// TestTheDefinitionIsTheOneOfTransformers compares with what AutoTokenizer's backend writes for the same folder. The
// ids that come of it are compared in tokenize/hf.
func TestTheDefinitionIsTheOneOfTransformers(t *testing.T) {
	for _, c := range pretrainedtest.Load(t).Cases {
		t.Run(c.Name, func(t *testing.T) {
			got, err := pretrained.Read(c.Read, c.ModelType(), c.Class())
			if c.Made.Error != "" {
				if err == nil {
					t.Fatalf("no error, transformers says %s", c.Made.Error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.CutLeft != (c.Made.Side == "left") || got.MaxTokens != c.Made.Longest ||
				got.Unknown != c.Made.Unknown || got.Split != c.Made.Split || got.Types != c.Made.Types {
				t.Errorf("side left %v, longest %d, unknown %q, split %v; transformers has %s, %d, %q, %v", got.CutLeft,
					got.MaxTokens, got.Unknown, got.Split, c.Made.Side, c.Made.Longest, c.Made.Unknown, c.Made.Split)
			}
			var definition map[string]any
			if err := json.Unmarshal(got.Definition, &definition); err != nil {
				t.Fatal(err)
			}
			model := definition["model"].(map[string]any)
			delete(model, "vocab")
			delete(model, "merges")
			for key, want := range c.Made.Definition {
				if !reflect.DeepEqual(definition[key], want) {
					t.Errorf("%s is\n%s, of transformers\n%s", key, text(definition[key]), text(want))
				}
			}
		})
	}
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
