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
	TextPair     string       `key:"text_pair"`
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
	{Name: "text_pair", Example: "hypothesis",
		Doc: "path of a second text, for models that read two (entailment, relevance); a record without it is a dead " +
			"letter. See models[].reads"},
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

// checkTextPath checks where a text is said to be.
func checkTextPath(c *config.Check, s *Settings, key, text string) {
	path, err := codec.ParsePath(text)
	if err != nil {
		c.Mistake(key, "%v", err)
	} else if path[0] == s.Output.Field {
		c.Between([]string{"output.field", key}, "%q is also where the text is (%s), and a record that has the output "+
			"field already is refused; give the verdicts another field, or read another text field", s.Output.Field,
			key)
	}
}

func checkInput(c *config.Check, s *Settings) {
	in := &s.Input
	switch form := formats.Named(in.Format); {
	case form == nil: // its own mistake, which has been told
	case !form.Fields:
		for _, key := range []string{"input.text", "input.text_pair"} {
			if c.Given(key) {
				c.Between([]string{key, "input.format"}, "has no meaning with input.format: %s, where the "+
					"whole value is the text; remove it, or set format: json", in.Format)
			}
		}
	default:
		checkTextPath(c, s, "input.text", in.Text)
		if in.TextPair != "" {
			checkTextPath(c, s, "input.text_pair", in.TextPair)
		}
		if in.TextPair == in.Text {
			c.Between([]string{"input.text_pair", "input.text"}, "is input.text itself; name the field of the second "+
				"text, or remove it")
		}
	}
	if err := codec.CheckField(s.Output.Field); err != nil {
		c.Mistake("output.field", "%v; write for example inference", err)
	}
}
