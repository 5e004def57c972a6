package llm_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"sluice/pipeline/llm"
	"sluice/pipeline/llm/label"
	"sluice/pipeline/llm/openai"
)

// A pool asks an endpoint which label fits a text.
func Example() {
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"choices": [{"finish_reason": "stop", "message": {"role": "assistant",
			"content": "{\"label\": \"NEGATIVE\", \"confidence\": 0.9}"}}]}`)
	}))
	defer endpoint.Close()

	o := llm.DefaultOptions()
	o.Name, o.Protocol, o.URLs, o.Model = "example", openai.Protocol{}, []string{endpoint.URL + "/v1"}, "llama"
	pool, err := llm.NewPool(o)
	if err != nil {
		panic(err)
	}
	defer pool.Close()
	task, err := label.New(label.Options{Labels: []string{"NEGATIVE", "POSITIVE"}})
	if err != nil {
		panic(err)
	}

	reply, err := pool.Ask(context.Background(), llm.Call{
		Affinity: "reviews/0",
		Messages: task.Messages("It broke on the second day."),
		Schema:   task.Schema(),
		Choices:  task.Choices(),
	})
	if err != nil {
		panic(err)
	}
	answer, err := task.Parse(reply.Content)
	fmt.Println(answer.Label, answer.Score, err)
	// Output: NEGATIVE 0.9 <nil>
}
