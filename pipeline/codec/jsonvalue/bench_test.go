package jsonvalue

import (
	"context"
	"strings"
	"testing"

	"sluice/pipeline/codec"
)

func BenchmarkOpen(b *testing.B) {
	text := "My card has not arrived yet; when can I expect it, and whom do I call if it never comes?"
	for name, value := range map[string]string{
		"short":   `{"id":7,"user":"u1","text":"` + text + `","lang":"en"}`,
		"escaped": `{"id":7,"user":"u1","text":"` + strings.ReplaceAll(text, ";", `;\n\u00e9\ud83d\ude00`) + `"}`,
		"long":    `{"id":7,"user":"u1","text":"` + strings.Repeat(text, 10) + `","lang":"en"}`,
	} {
		b.Run(name, func(b *testing.B) {
			c := New(Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 512})
			raw := []byte(value)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Open(context.Background(), raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
