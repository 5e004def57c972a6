package settings

import (
	"slices"

	"sluice/cmd/sluice/config"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/formats"
)

// This file owns the sections input, output and dead_letter: what is read, and where results and failures go.

// Input says what is read and where in a record the text is.
type Input struct {
	Topics       []string     `key:"topics"`
	Format       string       `key:"format"`
	Text         string       `key:"text"`
	Start        string       `key:"start"`
	MaxTextBytes config.Bytes `key:"max_text_bytes"`
	MaxDepth     int          `key:"max_depth"`
}

var inputKeys = []config.Key{
	{Name: "topics", Need: true, Example: "customer_reviews", Doc: "topics to read"},
	{Name: "format", Example: "text",
		OneOf: formats.Names(),
		Doc:   "json: each value is an object with a text field; text: the whole value is the text"},
	{Name: "text", Example: "review.body",
		Doc: `path of the text field in a JSON value, with dots between levels (\. is a dot in a name)`},
	{Name: "start", Example: "latest",
		OneOf: []string{"earliest", "latest", "error"}, Doc: "where to begin in a topic of which the group has no " +
			"offset yet; partitions that appear later are read from their beginning"},
	{Name: "max_text_bytes", Example: "256KiB",
		Range: config.Range{Least: "1"},
		Doc:   "longer texts are cut before tokenizing, and flagged"},
	{Name: "max_depth", Example: "512",
		Range: config.Range{Least: "1", Most: "10000"},
		Doc:   "JSON values nested deeper go to the dead letter topic"},
}

// Output says where results go.
type Output struct {
	Topic string `key:"topic"`
	Field string `key:"field"`
}

var outputKeys = []config.Key{
	{Name: "topic", Need: true, Example: "review_analysis", Doc: "topic for results"},
	{Name: "field", Example: "inference", Doc: "field that is added to the source object"},
}

// DeadLetter says where records go that cannot be judged.
type DeadLetter struct {
	Topic string `key:"topic"`
}

var deadLetterKeys = []config.Key{
	{Name: "topic", Need: true, Example: "review_dlq",
		Doc: "topic for records that cannot be judged, unchanged, with the reason in their headers"},
}

func checkInput(c *config.Check, s *Settings) {
	in := &s.Input
	switch form := formats.Named(in.Format); {
	case form == nil: // its own mistake, which has been told
	case !form.Fields:
		if c.Given("input.text") {
			c.Between([]string{"input.text", "input.format"}, "has no meaning with input.format: %s, where the "+
				"whole value is the text; remove it, or set format: json", in.Format)
		}
	default:
		if slices.Contains(codec.ParsePath(in.Text), "") {
			c.Mistake("input.text", "%q is not a path; write for example text, or review.body", in.Text)
		}
		if in.Text == s.Output.Field {
			c.Between([]string{"output.field", "input.text"}, "%q is also the text field (input.text), and a record "+
				"that has the output field already is refused; give the verdicts another field, or read another text "+
				"field", s.Output.Field)
		}
	}
	if err := codec.CheckField(s.Output.Field); err != nil {
		c.Mistake("output.field", "%v; write for example inference", err)
	}
}
