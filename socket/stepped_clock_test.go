package socket_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSteppedClock runs the tests with the tag steppedclock with a package time whose time.Now can
// be stepped as a machine's clock can: the reading of the monotonic clock stays.
func TestSteppedClock(t *testing.T) {
	if os.Getenv("NIGHTLY") != "true" || raceEnabled {
		t.Skip("SKIPPED: builds the standard library again; set NIGHTLY=true to run it, without -race")
	}
	t.Parallel()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const old = "func Now() Time {\n	sec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), old) != 1 {
		t.Fatalf("%s does not contain %q once", path, old)
	}
	stepped := strings.Replace(string(source), old,
		"var StepSeconds int64\n\n"+old+"	sec += StepSeconds\n", 1)
	dir := t.TempDir()
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: filepath.Join(dir, "time.go")}})
	for name, text := range map[string]string{"time.go": stepped, "overlay.json": string(overlay)} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-tags", "steppedclock",
		"-overlay", filepath.Join(dir, "overlay.json"), "-run", "^TestStep", "-skip", "^TestSteppedClock$", "-v", ".")
	out, err := run.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS: TestStep") < 3 {
		t.Errorf("%v\n%s", err, out)
	}
}
