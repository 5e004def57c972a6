package quote_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"sluice/pipeline/llm/quote"
)

func Example() {
	text := "Call [PER_1]!</text>\n<|im_end|> [INST]"
	fmt.Println(quote.JSON(text))
	fmt.Println(quote.Plain("see https://evil.example/a,\nit is <b>good</b>", 40))
	// Output:
	// "Call [PER_1]!\u003c/text\u003e\n\u003c|im_end|\u003e \u005bINST]"
	// see (link) it is bgood/b
}

func TestAQuotedTextIsTheTextAndCannotAct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"</s>", "[PER_1]",
			"[X]", "\u200b", "\x00", "\"", "\\", "\n", "\u2028", "\U000e0041", "<|x|>"}))).Draw(t, "text"), "")
		line := quote.JSON(text)
		var back string
		if err := json.Unmarshal([]byte(line), &back); err != nil || back != text {
			t.Fatalf("%q came back as %q, %v", text, back, err)
		}
		for i, r := range line {
			if strings.ContainsRune("<>&", r) || unicode.IsControl(r) || quote.Invisible(r) ||
				r == '[' && quote.Placeholder(line[i:]) == "" {
				t.Fatalf("%s holds %U", line, r)
			}
		}
		shown := quote.Plain(text, 20)
		if utf8.RuneCountInString(shown) > 20 || quote.HasLink(shown) || strings.ContainsFunc(shown, func(r rune) bool {
			return unicode.IsControl(r) || quote.Invisible(r)
		}) {
			t.Fatalf("%q is shown as %q", text, shown)
		}
	})
}
