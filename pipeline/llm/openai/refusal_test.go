package openai

import (
	"encoding/json"
	"strings"
	"testing"

	"sluice/pipeline/llm"
)

// usual are the names under which parameters go out before anything is known.
var usual = []string{"max_tokens", "temperature", "stream"}

// renamed are they at an endpoint that wanted another name.
var renamed = []string{"max_completion_tokens", "temperature", "stream"}

// The bodies are those of servers, as their users have reported them.
func TestWhatARefusalIsAbout(t *testing.T) {
	for _, c := range []struct {
		name      string
		status    int
		body      string
		sent      []string
		about     llm.Complaint
		parameter string
		instead   string
		says      string // in the sentence
	}{
		{"OpenAI, max_tokens", 400, `{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with ` +
			`this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens",` +
			`"code":"unsupported_parameter"}}`, usual, llm.ComplaintParameter, "max_tokens", "max_completion_tokens",
			"Use 'max_completion_tokens' instead."},
		{"Copilot, without param", 400, `{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported ` +
			`with this model. Use 'max_completion_tokens' instead.","code":"invalid_request_body"}}`, usual,
			llm.ComplaintParameter, "max_tokens", "max_completion_tokens", "Unsupported parameter"},
		{"OpenAI, temperature", 400, `{"error":{"message":"Unsupported value: 'temperature' does not support 0 with ` +
			`this model. Only the default (1) value is supported.","type":"invalid_request_error",` +
			`"param":"temperature","code":"unsupported_value"}}`, usual, llm.ComplaintParameter, "temperature", "",
			"Only the default (1)"},
		{"OpenAI, temperature of o3-mini", 400, `{"error":{"message":"Unsupported parameter: 'temperature' is not ` +
			`supported with this model.","type":"invalid_request_error","param":"temperature",` +
			`"code":"unsupported_parameter"}}`, renamed, llm.ComplaintParameter, "temperature", "", ""},
		{"OpenAI, of old", 400, `{"error":{"message":"Unrecognized request argument supplied: max_tokens","type":` +
			`"invalid_request_error","param":null,"code":null}}`, usual, llm.ComplaintParameter, "max_tokens", "", ""},
		{"Mistral, an object in message", 422, `{"object":"error","message":{"detail":[{"type":"extra_forbidden",` +
			`"loc":["body","max_completion_tokens"],"msg":"Extra inputs are not permitted","input":32000}]},` +
			`"type":"invalid_request_error","param":null,"code":null}`, renamed, llm.ComplaintParameter,
			"max_completion_tokens", "", "max_completion_tokens: Extra inputs are not permitted"},
		{"Mistral, JSON in a string", 422, `{"object":"error","message":"{\"detail\":[{\"type\":\"extra_forbidden\",` +
			`\"loc\":[\"body\",\"stream\"],\"msg\":\"Extra inputs are not permitted\",\"input\":0.0}]}","type":` +
			`"internal_error_proxy","param":null,"code":"1000"}`, usual, llm.ComplaintParameter, "stream", "", "stream"},
		{"Mistral, a list in message", 422, `{"object":"Error","detail":[{"type":"extra_forbidden","loc":["body",` +
			`"temperature"],"msg":"Extra inputs are not permitted","input":[]}],"message":[{"type":"extra_forbidden",` +
			`"loc":["body","temperature"],"msg":"Extra inputs are not permitted"}],"code":3001}`, usual,
			llm.ComplaintParameter, "temperature", "", "temperature: Extra"},
		{"vLLM, a list printed by Python", 400, `{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ` +
			`('body', 'max_completion_tokens'), 'msg': 'Extra inputs are not permitted', 'input': 8192}]","type":` +
			`"BadRequestError","param":null,"code":400}`, renamed, llm.ComplaintParameter, "max_completion_tokens", "",
			"Extra inputs"},
		{"FastAPI, another member", 422, `{"detail":[{"type":"extra_forbidden","loc":["body","guided_choice"],` +
			`"msg":"Extra inputs are not permitted","input":["max_tokens"]}]}`, usual, llm.ComplaintForm, "", "", ""},
		{"FastAPI, a body that is echoed", 422, `{"detail":[{"type":"missing","loc":["body","prompt"],"msg":"Field ` +
			`required","input":{"max_tokens":9,"temperature":0,"messages":[{"content":"temperature not supported, ` +
			`context length"}]}}]}`, usual, llm.ComplaintOther, "", "", "prompt: Field required"},
		{"Gemini, in a list", 400, `[{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name ` +
			`\"max_completion_tokens\": Cannot find field.","status":"INVALID_ARGUMENT","details":[{"@type":` +
			`"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"description":"Invalid JSON payload ` +
			`received."}]}]}}]`, renamed, llm.ComplaintParameter, "max_completion_tokens", "", "Cannot find field"},
		{"Gemini, stream", 400, `{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name ` +
			`\"stream\": Cannot find field.","status":"INVALID_ARGUMENT"}}`, usual, llm.ComplaintParameter, "stream",
			"", ""},
		{"LiteLLM", 400, `{"error":{"message":"litellm.UnsupportedParamsError: openai does not support parameters: ` +
			`['temperature'], for model=o1-mini. To drop these, set litellm.drop_params=True","type":null,"param":` +
			`null,"code":"400"}}`, usual, llm.ComplaintParameter, "temperature", "", ""},
		{"LiteLLM, gpt-5", 400, `{"error":{"message":"litellm.UnsupportedParamsError: gpt-5 models don't support ` +
			`temperature=0. Only temperature=1 is supported."}}`, usual, llm.ComplaintParameter, "temperature", "", ""},
		{"Groq", 400, `{"error":{"message":"property 'max_completion_tokens' is unsupported, did you mean ` +
			`'max_tokens'?","type":"invalid_request_error"}}`, renamed, llm.ComplaintParameter,
			"max_completion_tokens", "max_tokens", ""},
		{"GigaChat", 422, `{"status":422,"message":"Invalid params: temperature must be in range (0, +inf)"}`, usual,
			llm.ComplaintParameter, "temperature", "", ""},
		{"TGI", 422, "{\"error\":\"Input validation error: `temperature` must be strictly positive\"," +
			"\"error_type\":\"validation\"}", usual, llm.ComplaintParameter, "temperature", "", "strictly positive"},
		{"OpenRouter, JSON in metadata", 400, `{"error":{"message":"Provider returned error","code":400,"metadata":` +
			`{"raw":"{\"error\":{\"message\":\"Unsupported parameter: 'max_tokens' is not supported\",\"param\":` +
			`\"max_tokens\"}}","provider_name":"OpenAI"}},"user_id":"u"}`, usual, llm.ComplaintParameter, "max_tokens",
			"", "Provider returned error"},
		{"plain text", 400, "Unknown field `max_tokens`, expected one of `model`, `max_completion_tokens`", usual,
			llm.ComplaintParameter, "max_tokens", "max_completion_tokens", ""},
		{"llama-cpp-python", 400, `{"detail":"create_chat_completion() got an unexpected keyword argument ` +
			`'max_tokens'"}`, usual, llm.ComplaintParameter, "max_tokens", "", ""},

		{"a value too large is the configuration's", 400, `{"error":{"message":"max_tokens is too large: 5000. This ` +
			`model supports at most 4096 completion tokens.","param":"max_tokens","code":"invalid_value"}}`, usual,
			llm.ComplaintOther, "", "", "too large"},
		{"Groq, a value too large", 400, "{\"error\":{\"message\":\"`max_tokens` must be less than or equal to " +
			"`512`, the maximum value for `max_tokens` is less than the `context_window` for this model\",\"type\":" +
			"\"invalid_request_error\",\"param\":\"max_tokens\"}}", usual, llm.ComplaintOther, "", "", ""},
		{"OpenAI, a value too small", 400, `{"error":{"message":"Invalid 'max_output_tokens': integer below minimum ` +
			`value. Expected a value >= 16, but got 10 instead.","param":"max_output_tokens","code":` +
			`"integer_below_min_value"}}`, usual, llm.ComplaintOther, "", "", ""},
		{"DashScope wants a stream", 400, `{"error":{"message":"This model only support stream mode, please enable ` +
			`the stream parameter to access the model.","type":"invalid_request_error"}}`, usual, llm.ComplaintOther,
			"", "", ""},
		{"another role", 400, `{"error":{"message":"Unsupported value: 'messages[0].role' does not support 'system' ` +
			`with this model.","param":"messages[0].role","code":"unsupported_value"}}`, usual, llm.ComplaintOther, "",
			"", ""},

		{"OpenAI, context", 400, `{"error":{"code":"context_length_exceeded"}}`, usual, llm.ComplaintLength, "", "",
			""},
		{"plain text, context", 400, "This model's maximum context length is 4096 tokens", usual, llm.ComplaintLength,
			"", "", ""},
		{"vLLM, max_tokens and context", 400, `{"error":{"message":"'max_tokens' or 'max_completion_tokens' is too ` +
			`large: 200. This model's maximum context length is 128 tokens and your request has 100 input tokens",` +
			`"type":"BadRequestError","param":null,"code":400}}`, usual, llm.ComplaintLength, "", "", ""},
		{"llama.cpp, context", 400, `{"error":{"code":400,"message":"the request exceeds the available context size, ` +
			`try increasing it","type":"exceed_context_size_error","n_prompt_tokens":14429,"n_ctx":8192}}`, usual,
			llm.ComplaintLength, "", "", ""},
		{"TGI, context", 422, "{\"error\":\"Input validation error: `inputs` tokens + `max_new_tokens` must be <= " +
			"4096. Given: 5000 `inputs` tokens and 200 `max_new_tokens`\",\"error_type\":\"validation\"}", usual,
			llm.ComplaintLength, "", "", ""},
		{"LiteLLM, context", 400, `{"error":{"message":"litellm.ContextWindowExceededError: OpenAIException"}}`, usual,
			llm.ComplaintLength, "", "", ""},

		{"Azure's filter", 400, `{"error":{"message":"The response was filtered due to the prompt triggering Azure ` +
			`OpenAI's content management policy.","type":null,"param":"prompt","code":"content_filter","status":400,` +
			`"innererror":{"code":"ResponsibleAIPolicyViolation"}}}`, usual, llm.ComplaintFilter, "", "", "filtered"},
		{"LiteLLM before Azure's filter", 400, `{"error":{"message":"litellm.ContentPolicyViolationError: x"}}`, usual,
			llm.ComplaintFilter, "", "", ""},
		{"DashScope's filter", 400, `{"error":{"code":"data_inspection_failed","message":"Input data may contain ` +
			`inappropriate content."}}`, usual, llm.ComplaintFilter, "", "", ""},

		{"OpenAI's quota", 429, `{"error":{"message":"You exceeded your current quota, please check your plan and ` +
			`billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`, usual,
			llm.ComplaintQuota, "", "", "current quota"},
		{"Gemini's quota of a minute", 429, `[{"error":{"code":429,"message":"You exceeded your current quota, please ` +
			`check your plan and billing details.","status":"RESOURCE_EXHAUSTED"}}]`, usual, llm.ComplaintOther, "", "",
			""},
		{"DeepSeek", 402, `{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null}}`, usual,
			llm.ComplaintQuota, "", "", ""},
		{"Anthropic", 400, `{"error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}`,
			usual, llm.ComplaintQuota, "", "", ""},

		{"vLLM, model", 404, "{\"object\":\"error\",\"message\":\"The model `m-1.5` does not exist.\",\"type\":" +
			"\"NotFoundError\",\"param\":null,\"code\":404}", usual, llm.ComplaintModel, "", "", "m-1.5"},
		{"Ollama, model", 404, `{"error":{"message":"model \"m\" not found, try pulling it first"}}`, usual,
			llm.ComplaintModel, "", "", ""},
		{"Mistral, model", 400, `{"object":"error","message":"Invalid model: m","type":"invalid_model","code":"1500"}`,
			usual, llm.ComplaintModel, "", "", ""},
		{"OpenRouter, model", 400, `{"error":{"message":"m is not a valid model ID","code":400}}`, usual,
			llm.ComplaintModel, "", "", ""},
		{"Azure, model", 404, `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource ` +
			`does not exist."}}`, usual, llm.ComplaintModel, "", "", ""},

		{"Groq, form", 400, "{\"error\":{\"message\":\"This model does not support response format `json_schema`.\"}}",
			usual, llm.ComplaintForm, "", "", ""},
		{"OpenAI, form", 400, `{"error":{"message":"Invalid parameter: 'response_format' of type 'json_schema' is not ` +
			`supported with this model.","param":"response_format","code":null}}`, usual, llm.ComplaintForm, "", "", ""},
		{"an unknown member", 400, "unknown field \"structured_outputs\"", usual, llm.ComplaintForm, "", "", ""},
		{"llama-cpp-python, form", 500, "unsupported response_format type", usual, llm.ComplaintForm, "", "", ""},
		{"a form, and a word about length", 501, "Grammar is not implemented; n_ctx", usual, llm.ComplaintForm, "", "",
			""},
		{"a word of a fault", 500, "the temperature of GPU 0 is 95", usual, llm.ComplaintOther, "", "", ""},
		{"a fault", 500, "CUDA out of memory", usual, llm.ComplaintOther, "", "", "CUDA"},
		{"nothing", 400, "", usual, llm.ComplaintOther, "", "", ""},
		{"no object", 400, "[1,null,{},[]]", usual, llm.ComplaintOther, "", "", ""},
		{"deep", 400, strings.Repeat("[", 5000) + strings.Repeat("]", 5000), usual, llm.ComplaintOther, "", "", ""},
	} {
		r := Protocol{}.Refusal(c.status, []byte(c.body), c.sent)
		if r.About != c.about || r.Parameter != c.parameter || r.Instead != c.instead ||
			!strings.Contains(r.Sentence, c.says) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestAnErrorInAnAnswer(t *testing.T) {
	for body, want := range map[string]int{
		`{"error":{"message":"Provider returned error","code":429}}`:     429,
		`{"error":{"code":"400","message":"the request exceeds"}}`:       400,
		`{"error":"model is loading"}`:                                   0,
		`{"object":"error","message":"x","code":40303}`:                  0,
		`{"object":"error","message":"The model does not.","code":404.}`: -1,
		`{"choices":[],"usage":{}}`:                                      -1,
		`{"choices":[],"error":null}`:                                    -1,
		`<html>`:                                                         -1,
		`{"message":"hello"}`:                                            -1,
	} {
		r := Protocol{}.Refusal(200, []byte(body), usual)
		if wrong := r.Sentence != "" || r.Status != 0; wrong != (want >= 0) || wrong && r.Status != want {
			t.Errorf("%s: %+v, want status %d", body, r, want)
		}
	}
}

func TestParametersOnTheWire(t *testing.T) {
	for want, names := range map[string]llm.Names{
		`{"model":"m","max_tokens":9,"temperature":0,"stream":false,"messages":[]}`: nil,
		`{"model":"m","max_completion_tokens":9,"stream":false,"messages":[]}`: {"max_tokens": "max_completion_tokens",
			"temperature": llm.Omit},
		`{"model":"m","messages":[]}`: {"max_tokens": llm.Omit, "temperature": llm.Omit, "stream": llm.Omit},
	} {
		got, err := Protocol{}.Encode(&llm.Request{Model: "m", MaxTokens: 9, Mode: llm.ModeNone, Names: names,
			Call: &llm.Call{}})
		if err != nil || string(got) != want {
			t.Errorf("%v: %s, %v", names, got, err)
		}
	}
	for want, names := range map[string]llm.Names{
		`"max_token" is no parameter`: {"max_token": "x"}, `"" is no name`: {"max_tokens": ""},
		"omit to leave it out":  {"temperature": "a b"},
		"messages twice":        {"max_tokens": "messages"},
		"max_tokens twice":      {"temperature": "max_tokens"},
		"response_format twice": {"temperature": "response_format"},
		"guided_choice twice":   {"stream": "guided_choice"},
	} {
		if err := names.Check(Protocol{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", names, err, want)
		}
	}
}

func FuzzRefusal(f *testing.F) {
	f.Add([]byte(`{"error":{"message":"Unsupported parameter: 'max_tokens'","param":"max_tokens"}}`))
	f.Add([]byte(`[{"error":{"metadata":{"raw":"{\"detail\":[{\"loc\":[\"body\",\"stream\"],\"msg\":\"x\"}]}"}}}]`))
	f.Add([]byte("'loc': ('body', 'temperature'\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, status := range []int{200, 400} {
			r := Protocol{}.Refusal(status, body, usual)
			if (r.About == llm.ComplaintParameter) != (r.Parameter != "") || r.Instead != "" && r.Parameter == "" ||
				r.Status != 0 && (r.Status < 400 || r.Status > 599) {
				t.Fatalf("%+v", r)
			}
			if _, err := json.Marshal(r); err != nil {
				t.Fatal(err)
			}
		}
	})
}
