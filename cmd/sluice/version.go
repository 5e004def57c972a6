package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"sluice/cmd/sluice/worker"
	"sluice/model/ort"
	"sluice/tokenize/hf"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

// ownVersion is the linker's version, else what Go knows of the checkout it was built from.
func ownVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) >= 12:
				v += "-" + s.Value[:12]
			case s.Key == "vcs.modified" && s.Value == "true":
				v += "-modified"
			}
		}
	}
	return v
}

// moduleVersion is the version of a module that was built in.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "unknown"
}

// versionPage is everything that a report of a problem should say about the program and its machine.
type versionPage struct {
	Sluice      string          `json:"sluice"`
	Go          string          `json:"go"`
	Platform    string          `json:"platform"`
	Kafka       string          `json:"kafka_client"`
	Tokenizers  string          `json:"tokenizers"`
	OnnxRuntime onnxRuntimePage `json:"onnxruntime"`
	CPUs        int             `json:"cpus"` // that the container may use
	CPU         cpuPage         `json:"cpu"`
}

type onnxRuntimePage struct {
	Version   string   `json:"version,omitempty"`
	Providers []string `json:"providers,omitempty"`
	Error     string   `json:"error,omitempty"`
}

type cpuPage struct {
	Features []string `json:"features"`
	Int8     string   `json:"int8"` // what they mean for int8 models
}

func readVersion() versionPage {
	p := versionPage{
		Sluice: ownVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Kafka: "kafka-go " + moduleVersion("github.com/segmentio/kafka-go"),
		Tokenizers: "tokenizers " + hf.Version() + " (Rust), daulet/tokenizers " +
			moduleVersion("github.com/daulet/tokenizers"),
		CPUs: ort.DefaultRunners(), CPU: cpuPage{Features: ort.CPUFeatures(), Int8: ort.Int8Speed()},
	}
	if _, err := worker.Runtime(); err != nil {
		p.OnnxRuntime.Error = err.Error()
		return p
	}
	p.OnnxRuntime.Version, p.OnnxRuntime.Providers = ort.Version(), ort.Providers()
	return p
}

func (p versionPage) write(w io.Writer) {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-13s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("sluice", "%s", p.Sluice)
	row("go", "%s %s", p.Go, p.Platform)
	row("kafka client", "%s", p.Kafka)
	row("tokenizers", "%s", p.Tokenizers)
	if p.OnnxRuntime.Error != "" {
		row("onnxruntime", "not usable: %s", p.OnnxRuntime.Error)
	} else {
		row("onnxruntime", "%s", p.OnnxRuntime.Version)
		row("providers", "%s", strings.Join(p.OnnxRuntime.Providers, ", "))
	}
	features := strings.Join(p.CPU.Features, " ")
	if features == "" {
		features = "none that matter"
	}
	row("cpu", "%d usable; %s", p.CPUs, features)
	row("int8", "%s", p.CPU.Int8)
}

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version [--json]",
		Short: "Print versions, CPU features and execution providers",
		Long: `Prints the versions of sluice, Go, ONNX Runtime and the tokenizers library, the CPU features that matter
for speed, what they mean for int8 models, and the execution providers that are present.`,
		Example: "  sluice version\n  sluice version --json | jq .onnxruntime.providers",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := readVersion()
			if !asJSON {
				p.write(cmd.OutOrStdout())
				return nil
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(p)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
