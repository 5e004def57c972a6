// Package ort computes logits with ONNX Runtime: one session a model, shared by runners that each own an OS thread and
// their buffers. It is the only importer of github.com/yalue/onnxruntime_go, which loads the library at run time;
// nothing of ONNX Runtime is needed to build it (but cgo is).
package ort

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	onnx "github.com/yalue/onnxruntime_go"
	"golang.org/x/sys/cpu"
)

const (
	// LibraryEnv names the environment variable with the path of the ONNX Runtime library.
	LibraryEnv  = "SLUICE_ONNXRUNTIME"
	libraryName = "libonnxruntime.so.1"
	// oldest is the first release with the C API that the binding asks for (ORT_API_VERSION 24).
	oldest = "1.24"
)

var library struct {
	sync.Mutex
	path string // of the loaded library; "" before Init
}

// Init loads ONNX Runtime from the file path; with an empty path from the file that $SLUICE_ONNXRUNTIME names, else
// from lib/libonnxruntime.so.1 beside the executable (symbolic links resolved). It loads once a process: to call it
// again with the same path does nothing, another path is an error. The library stays loaded until the process ends.
func Init(path string) error {
	library.Lock()
	defer library.Unlock()
	path, looked := locate(path)
	if library.path != "" {
		if path != library.path {
			return fmt.Errorf("ONNX Runtime is loaded from %s already: %s cannot be loaded into the same process",
				library.path, path)
		}
		return nil
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("the ONNX Runtime library was not found: looked at %s: run scripts/native.sh onnxruntime "+
			"and set %s to the file it prints, or put %s into lib/ beside the executable", looked, LibraryEnv,
			libraryName)
	}
	onnx.SetSharedLibraryPath(path)
	// What goes wrong in a run comes back as an error; ONNX Runtime would print it on stderr as well.
	if err := onnx.InitializeEnvironment(onnx.WithLogLevelFatal()); err != nil {
		if strings.Contains(err.Error(), "API base") {
			return fmt.Errorf("the ONNX Runtime library %s is too old: release %s or newer is needed (C API 24): run "+
				"scripts/native.sh onnxruntime, which fetches one", path, oldest)
		}
		return fmt.Errorf("the ONNX Runtime library %s cannot be loaded (%w): it must be a complete libonnxruntime "+
			"for this machine's architecture; run scripts/native.sh onnxruntime, which fetches one", path, err)
	}
	library.path = path
	return nil
}

// locate is the file to load, and where it was looked for in words.
func locate(path string) (file, looked string) {
	if path != "" {
		return absolute(path), path
	}
	if env := os.Getenv(LibraryEnv); env != "" {
		return absolute(env), env + " ($" + LibraryEnv + ")"
	}
	exe, err := os.Executable()
	if err == nil {
		exe, err = filepath.EvalSymlinks(exe)
	}
	if err != nil {
		return "", fmt.Sprintf("$%s (not set), and the executable's directory is unknown (%v)", LibraryEnv, err)
	}
	file = filepath.Join(filepath.Dir(exe), "lib", libraryName)
	return file, fmt.Sprintf("$%s (not set) and %s", LibraryEnv, file)
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// Version is ONNX Runtime's, "1.32.0"; "" before Init.
func Version() string {
	library.Lock()
	defer library.Unlock()
	if library.path == "" {
		return ""
	}
	return onnx.GetVersion()
}

// Providers are the execution providers that a session can really use here: "cpu", and "cuda" and "openvino" where
// their libraries load. The first call may take seconds on a machine with CUDA. nil before Init.
func Providers() []string {
	if Version() == "" {
		return nil
	}
	names := []string{"cpu"}
	if probeCUDA() == nil {
		names = append(names, "cuda")
	}
	if probeOpenVINO() == nil {
		names = append(names, "openvino")
	}
	return names
}

// probeCUDA and probeOpenVINO are the reasons why no session can use the provider.
var (
	probeCUDA     = sync.OnceValue(func() error { return probe(appendCUDA) })
	probeOpenVINO = sync.OnceValue(func() error {
		return withSignalStack(func() error {
			return probe(func(o *onnx.SessionOptions) error { return appendOpenVINO(o, 1) })
		})
	})
)

func probe(add func(*onnx.SessionOptions) error) error {
	o, err := onnx.NewSessionOptions()
	if err != nil {
		return err
	}
	defer o.Destroy()
	return add(o)
}

// appendCUDA asks for the CUDA provider. Which step fails where it is missing depends on the library's build: one
// without CUDA refuses the options, one without its provider libraries refuses to set them, or only to append the
// provider.
func appendCUDA(o *onnx.SessionOptions) error {
	cuda, err := onnx.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	err = cuda.Update(map[string]string{"device_id": "0"})
	if err == nil {
		err = o.AppendExecutionProviderCUDA(cuda)
	}
	return errors.Join(err, cuda.Destroy())
}

// appendOpenVINO asks for OpenVINO on the CPU, with a stream of one thread for each runner: as with ONNX Runtime's own
// provider, runs beside each other scale better than threads within a run. OpenVINO would choose bf16 by itself where
// the CPU has any bf16 instruction, which changes answers; here it does only with AMX, where it is several times
// faster.
func appendOpenVINO(o *onnx.SessionOptions, runners int) error {
	precision := "f32"
	if openVINOInBF16() {
		precision = "bf16"
	}
	return o.AppendExecutionProviderOpenVINO(map[string]string{
		"device_type":    "CPU",
		"num_of_threads": strconv.Itoa(runners),
		"num_streams":    strconv.Itoa(runners),
		"load_config":    fmt.Sprintf(`{"CPU": {"INFERENCE_PRECISION_HINT": %q}}`, precision),
	})
}

// openVINOInBF16 says whether OpenVINO multiplies fp32 matrices in bf16 here.
func openVINOInBF16() bool { return cpu.X86.HasAMXBF16 }
