package settings

import (
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
		Doc: `path of the text field in a JSON value: keys, and positions in lists from 0, with dots between them, ` +
			`such as comments.0.text (\. is a dot in a key, \\ a backslash; nothing else has a meaning of its own)`},
	{Name: "start", Example: "latest",
		OneOf: []string{"earliest", "latest", "error"}, Doc: "where to begin when the group has no offset yet"},
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
		path, err := codec.ParsePath(in.Text)
		if err != nil {
			c.Mistake("input.text", "%v", err)
		} else if path[0] == s.Output.Field {
			c.Between([]string{"output.field", "input.text"}, "%q is also where the text is (input.text), and a "+
				"record that has the output field already is refused; give the verdicts another field, or read "+
				"another text field", s.Output.Field)
		}
	}
	if err := codec.CheckField(s.Output.Field); err != nil {
		c.Mistake("output.field", "%v; write for example inference", err)
	}
}
